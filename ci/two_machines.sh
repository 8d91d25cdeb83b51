#!/usr/bin/env bash
# A program with MPI on what looks to it like two machines: two network namespaces of this one, each with a name and an
# address of its own, joined by a pair of virtual Ethernet interfaces. MPI and NCCL have nothing between them but TCP over these;
# the first GPU belongs to one machine, the second to the other.
#   ci/two_machines.sh PROGRAM [ARGUMENT]...      one rank on each, for example
#   ci/two_machines.sh build-cuda/tools/bench/cuda/moeref_cuda_parallel_bench --mpi qwen3_30b
# Needs the right to make namespaces (root, or a container that allows it), ip (IP names another program), nsenter and Open MPI.
# Exit codes: the program's; 77 where something is missing or not permitted, so that nothing was run.
set -euo pipefail
[ $# -ge 1 ] || { echo "ci/two_machines.sh: want a program" >&2; exit 2; }
PATH=$PATH:/usr/sbin:/sbin
ip=${IP:-ip}
for program in "${ip%% *}" nsenter unshare mpirun "$1"; do
  command -v "$program" >/dev/null || { echo "ci/two_machines.sh: no $program here" >&2; exit 77; }
done

folder=$(mktemp -d)
machines=()
finish() {
  for machine in "${machines[@]}"; do kill "$machine" 2>/dev/null || true; done
  rm -rf "$folder"
}
trap finish EXIT
# A process that keeps the namespaces of a machine; with the last one they and the interfaces end.
for name in machine-a machine-b; do
  unshare --net --uts sh -c "(hostname $name || echo $name >/proc/sys/kernel/hostname) && exec sleep infinity" 2>/dev/null &
  machines+=($!)
done
on() { # MACHINE COMMAND...
  local machine=${machines[$1]}
  shift
  nsenter --target "$machine" --net --uts "$@"
}
for machine in 0 1; do
  for ((tries = 0; ; ++tries)); do
    case $(on $machine uname -n 2>/dev/null) in machine-?) break ;; esac
    [ $tries -lt 50 ] || { echo "ci/two_machines.sh: namespaces are not permitted here" >&2; exit 77; }
    sleep 0.1
  done
done
on 0 $ip link add name link0 type veth peer name link0 netns "${machines[1]}" ||
  { echo "ci/two_machines.sh: no virtual Ethernet here" >&2; exit 77; }
for machine in 0 1; do
  on $machine $ip link set lo up
  on $machine $ip address add 10.99.0.$((machine + 1))/24 dev link0
  on $machine $ip link set link0 up
done

# What mpirun takes for ssh.
cat >"$folder/remote" <<EOF
#!/bin/sh
shift
export CUDA_VISIBLE_DEVICES=1
exec nsenter --target ${machines[1]} --net --uts sh -c "\$*"
EOF
chmod +x "$folder/remote"
status=0
CUDA_VISIBLE_DEVICES=0 on 0 mpirun --allow-run-as-root -n 2 --host 10.99.0.1:1,10.99.0.2:1 \
  --mca plm rsh --mca plm_rsh_agent "$folder/remote" --mca oob_tcp_if_include link0 --mca pml ob1 --mca btl self,tcp \
  --mca btl_tcp_if_include link0 -x NCCL_SOCKET_IFNAME=link0 -x NCCL_IB_DISABLE=1 -x NCCL_P2P_DISABLE=1 \
  -x NCCL_SHM_DISABLE=1 -x NCCL_DEBUG="${NCCL_DEBUG:-WARN}" "$@" || status=$?
exit $status
