// Grouped product over a varying K: for each expert e, G_e[m][n] = sum over its rows r of left[r][m] *
// right[r][n]. An expert without rows gets exact zeros.
//   dW_gate_up [D, 2I]: left = X, right = dH.   dW_down [I, D]: left = A', right = dY; X and dY by row.
//
// Strips of 64 (M) x N, both operands MN-major by TMA; persistent, one block per multiprocessor, or clusters
// of two blocks with neighbouring M and the same N, each loading half of `right` into both. Two layouts:
//   N = 192, five right slots   up to 320 rows an expert stay while its strips pass by
//   N = 256, four               wgmma's widest form, which reads least of shared memory for each flop
// Units come by tickets (tickets.cuh), which the loader of the first warpgroup's `left` draws when it comes
// to a unit's last blocks; they run fastest along the narrower matrix, which stays in L2 while the wider one
// streams by.
//
// Where `right` stays, the warpgroups take turns: one multiplies while the other stores, since a strip of few
// rows takes as long to store as to multiply. The result leaves by TMA, each warp's through its own 2 KiB.
//
// An expert's last block is multiplied only up to the next multiple of 16 rows, and of those it may hold rows
// of the next expert, or unwritten ones, which must not enter as 0 * NaN: a warp of its own overwrites them
// with zeros before the consumers see the block. Floor: 2 R M N flops, and 2 E M N bytes written, which is
// the larger term under about 250 rows an expert. Measured on an H200: 610 TF at 2048 rows an expert (dense
// 675), 510 at 256 (tools/bench/results).
#pragma once

#include <type_traits>

#include "cuda_impl/grouped_gemm/sm90/gradient_rings.cuh"

namespace moeref::cuda::sm90 {

/// The barrier that a block arrives at.
template <class Layout>
__device__ __forceinline__ std::uint32_t arrival(std::uint32_t base, int slot, const GradientUnit& u,
                                                 int block) {
  return block < u.whole_blocks() ? Layout::full(base, slot) : Layout::landed(base, slot);
}

template <class Layout, class Tickets>
__device__ __forceinline__ void load_left(const CUtensorMap& left, const WeightGradientShape& s,
                                          std::uint32_t base, int warpgroup, Tickets tickets) {
  LeftRing ring = left_ring<Layout>(warpgroup);
  ring.phase = 1;  // the first pass over the slots finds them empty
  for_units(s, tickets, [&](const GradientUnit& u) {
    const int blocks = u.blocks();
    int to_load = u.tiles * blocks;
    const int draw_at = min(to_load, 2 * kLeftSlots);
    for (int tile = 0; tile < u.tiles; ++tile) {
      const int m = u.m<Layout>(tile, warpgroup);
      if (m >= s.left_width) break;
      for (int block = 0; block < blocks; ++block) {
        if (to_load-- == draw_at) tickets.draw();
        const std::uint32_t arrived = arrival<Layout>(base, ring.slot(), u, block);
        mbarrier_wait(Layout::empty(base, ring.slot()), ring.phase);
        mbarrier_arrive_expect(arrived, kLeftBytes);
        tma_load(Layout::data(base, ring.slot()), &left, arrived, m, u.begin + block * kBlockK, 0);
        ring.advance();
      }
    }
  });
}

template <class Layout>
__device__ __forceinline__ void load_right(const CUtensorMap& right, const WeightGradientShape& s,
                                           std::uint32_t base) {
  constexpr int cluster = Layout::cluster, boxes = Layout::boxes / cluster;
  const int rank = rank_in_cluster<Layout>();
  RightRing<Layout> ring{0};
  ring.phase = 1;
  TicketReader<typename Layout::Ring, false> tickets(base + Layout::tickets);
  for_units(s, tickets, [&](const GradientUnit& u) {
    const int blocks = u.blocks(), times = u.resident<Layout>() ? 1 : u.tiles;
    for (int i = 0; i < times; ++i)
      for (int block = 0; block < blocks; ++block) {
        const std::uint32_t arrived = arrival<Layout>(base, ring.slot(), u, block);
        mbarrier_wait(Layout::empty(base, ring.slot()), ring.phase);
        mbarrier_arrive_expect(arrived, Layout::right_bytes);
#pragma unroll
        for (int box = rank * boxes; box < (rank + 1) * boxes; ++box)
          load_box<cluster>(Layout::data(base, ring.slot()) + box * kBlock64Bytes, right, arrived,
                            u.n_tile * Layout::n + box * 64, u.begin + block * kBlockK, 0);
        ring.advance();
      }
  });
}

template <class Layout>
__device__ __forceinline__ void clear_foreign_rows(const WeightGradientShape& s, std::uint32_t base) {
  const int lane = threadIdx.x % 32;
  std::uint32_t parities = 0;  // of `landed`, one bit a slot
  RightRing<Layout> right{0};
  LeftRing left[2] = {left_ring<Layout>(0), left_ring<Layout>(1)};
  TicketReader<typename Layout::Ring, true> tickets(base + Layout::tickets);
  for_units(s, tickets, [&](const GradientUnit& u) {
    const int blocks = u.blocks(), mine = u.rows % kBlockK, steps = u.last_steps();
    const bool resident = u.resident<Layout>();
    // The last of the ring's next `blocks` blocks, of `boxes` boxes of 64 columns.
    const auto clear = [&]<int Slots>(Ring<Slots>& ring, int boxes) {
      const int last = ring.first + (ring.at + blocks - 1) % Slots;
      ring.at = (ring.at + blocks) % Slots;
      if (steps == 0) return;
      mbarrier_wait(Layout::landed(base, last), parities >> last & 1);
      parities ^= 1u << last;
      for (int box = 0; box < boxes; ++box)
        for (int at = mine * 128 + lane * 16; at < steps * 2048; at += 32 * 16)
          store_zero(Layout::data(base, last) + box * kBlock64Bytes + at);
      fence_shared_for_async();
      __syncwarp();
      if (lane == 0) mbarrier_arrive(Layout::full(base, last));
    };
    for (int tile = 0; tile < u.tiles; ++tile) {
      if (tile == 0 || !resident) clear(right, Layout::boxes);
      if (u.m<Layout>(tile, 0) < s.left_width) clear(left[0], 1);
      if (u.m<Layout>(tile, 1) < s.left_width) clear(left[1], 1);
    }
  });
}

/// Where a warpgroup's next blocks are.
template <class Layout>
struct GradientOperands {
  RightRing<Layout> right;
  LeftRing left;
  std::uint32_t right_descriptor, left_descriptor;  // low words, of the rings' first slots
  bool wait_right, free_right;                      // in this strip

  __device__ GradientOperands(std::uint32_t base, int warpgroup)
      : right{0},
        left(left_ring<Layout>(warpgroup)),
        right_descriptor(low_word(Layout::data(base, 0))),
        left_descriptor(low_word(Layout::data(base, left.slot()))),
        wait_right(true),
        free_right(true) {}

  static __device__ std::uint32_t low_word(std::uint32_t address) {
    return static_cast<std::uint32_t>(descriptor(address, kBlock64Bytes));
  }
  static __device__ std::uint64_t with_high_word(std::uint32_t low) {
    return (descriptor(0, 0) & ~std::uint64_t{0xffffffff}) | low;
  }
};

/// The sum over the unit's rows, in steps of 16, for the first N columns. Calls last_issued() once the last
/// products are started, and while_running() before waiting for them.
template <class Layout, int N, class LastIssued, class WhileRunning>
__device__ __forceinline__ void multiply(float (&acc)[Layout::n / 2], std::uint32_t base,
                                         const GradientUnit& u, GradientOperands<Layout>& operands,
                                         const LastIssued& last_issued, const WhileRunning& while_running) {
  RightRing<Layout>& right = operands.right;
  LeftRing& left = operands.left;
  int previous_right = 0, previous_left = 0;
  const auto release_previous = [&] {
    if (threadIdx.x % 32 == 0) mbarrier_arrive(Layout::empty(base, previous_left));
    if (operands.free_right) release_at<Layout>(Layout::empty(base, previous_right));
  };
  const auto block = [&]<int Steps>(std::integral_constant<int, Steps>, bool add, bool last) {
    if (operands.wait_right) mbarrier_wait(Layout::full(base, right.slot()), right.phase);
    mbarrier_wait(Layout::full(base, left.slot()), left.phase);
    const std::uint32_t a = operands.left_descriptor + left.at * (kLeftBytes >> 4),
                        b = operands.right_descriptor + right.at * (Layout::right_bytes >> 4);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < Steps; ++k)
      wgmma<N, 1, 1>(acc, operands.with_high_word(a + k * (2048 >> 4)),
                     operands.with_high_word(b + k * (2048 >> 4)), add || k > 0);
    wgmma_commit();
    if (last) last_issued();
    if (add) {
      wgmma_wait<1>();
      release_previous();
    }
    previous_right = right.slot(), previous_left = left.slot();
    right.advance(), left.advance();
  };
  const int whole = u.whole_blocks(), steps = u.last_steps();
  for (int i = 0; i < whole; ++i)
    block(std::integral_constant<int, 4>{}, i > 0, steps == 0 && i + 1 == whole);
  switch (steps) {  // a loop would make the compiler wait for each product
    case 4:
      block(std::integral_constant<int, 4>{}, whole > 0, true);
      break;
    case 3:
      block(std::integral_constant<int, 3>{}, whole > 0, true);
      break;
    case 2:
      block(std::integral_constant<int, 2>{}, whole > 0, true);
      break;
    case 1:
      block(std::integral_constant<int, 1>{}, whole > 0, true);
  }
  while_running();
  wgmma_wait<0>();
  release_previous();
}

/// A warp's 16 rows from `m`, through a buffer of its own: no other warp waits for it.
template <class Layout>
__device__ __forceinline__ void store_gradient(const CUtensorMap& out, const float (&acc)[Layout::n / 2],
                                               const GradientUnit& u, int m, int columns,
                                               std::uint32_t buffer) {
  const int lane = threadIdx.x % 32, row = ((lane >> 3) & 1) * 8 + lane % 8;
#pragma unroll
  for (int c = 0; c < Layout::boxes; ++c) {
    if (c * kStoreColumns >= columns) break;
    if (lane == 0) tma_store_wait_read<0>();
    __syncwarp();
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      std::uint32_t v[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = c * 32 + 4 * (2 * j + i / 2) + 2 * (i % 2);
        v[i] = pack_bf16(acc[at], acc[at + 1]);
      }
      stmatrix4(buffer + row * 128 + (((2 * j + (lane >> 4)) ^ (row & 7)) << 4), v);
    }
    fence_shared_for_async();
    __syncwarp();
    if (lane == 0) {
      tma_store(&out, buffer, u.n_tile * Layout::n + c * kStoreColumns, m, u.expert);
      tma_store_commit();
    }
  }
}

/// The part of a warpgroup whose strip lies outside the matrix.
template <class Layout>
__device__ __forceinline__ void pass_right(std::uint32_t base, const GradientUnit& u,
                                           GradientOperands<Layout>& operands) {
  for (int block = 0; block < u.blocks(); ++block, operands.right.advance()) {
    mbarrier_wait(Layout::full(base, operands.right.slot()), operands.right.phase);
    if (operands.free_right) release_at<Layout>(Layout::empty(base, operands.right.slot()));
  }
}

template <class Layout>
__device__ __forceinline__ void consume(const CUtensorMap& out, const WeightGradientShape& s,
                                        std::uint32_t base, int warp) {
  const int warpgroup = warp / 4, m_of_warp = warp % 4 * kStoreRows;
  const std::uint32_t staging = base + Layout::staging + warp * kStoreBytes;
  GradientOperands<Layout> operands(base, warpgroup);
  std::uint32_t turn = warpgroup == 0;  // the first goes first
  float acc[Layout::n / 2] = {};
  TicketReader<typename Layout::Ring, true> tickets(base + Layout::tickets);
  int work = tickets.next();
  GradientUnit next{};
  if (work < s.units()) next = locate(s, work);
  while (work < s.units()) {
    const GradientUnit u = next;
    const bool resident = u.resident<Layout>();
    const int columns = s.right_width - u.n_tile * Layout::n;
    for (int tile = 0; tile < u.tiles; ++tile) {
      const int m = u.m<Layout>(tile, warpgroup);
      const bool last = tile + 1 == u.tiles;
      const RightRing<Layout> panel = operands.right;
      operands.wait_right = !resident || tile == 0;
      operands.free_right = !resident || last;
      const auto pass_turn = [&] {
        if (resident && threadIdx.x % 32 == 0) mbarrier_arrive(Layout::turn(base, 1 - warpgroup));
      };
      const auto find_next = [&] {
        if (!last) return;
        work = tickets.next();
        if (work < s.units()) next = locate(s, work);
      };
      if (resident) mbarrier_wait(Layout::turn(base, warpgroup), turn), turn ^= 1;
      if (m < s.left_width) {
        const auto strip = [&]<int N>(std::integral_constant<int, N>) {
          multiply<Layout, N>(acc, base, u, operands, pass_turn, find_next);
        };
        fence_accumulator(acc);
        if (columns > 128)
          strip(std::integral_constant<int, Layout::n>{});
        else if (columns > 64)
          strip(std::integral_constant<int, 128>{});
        else
          strip(std::integral_constant<int, 64>{});
        fence_accumulator(acc);
        store_gradient<Layout>(out, acc, u, m + m_of_warp, columns, staging);
      } else {
        pass_right(base, u, operands);
        pass_turn();
        find_next();
      }
      if (!operands.free_right) operands.right = panel;
    }
  }
  if (threadIdx.x % 32 == 0) tma_store_wait_all();
}

template <class Layout>
__global__ void __launch_bounds__(kThreads, 1)
    weight_gradient(const __grid_constant__ CUtensorMap left, const __grid_constant__ CUtensorMap right,
                    const __grid_constant__ CUtensorMap out, const __grid_constant__ WeightGradientShape s) {
  extern __shared__ __align__(1024) char shared[];
  const std::uint32_t base = kept_shared_address(shared);
  const int warp = uniform(threadIdx.x / 32);
  Layout::initialise_barriers(base);
  wait_for_earlier_kernels();
  if (warp < 8) {
    set_registers_up<kConsumerRegisters>();
    consume<Layout>(out, s, base, warp);
  } else {
    set_registers_down<kProducerRegisters>();
    const bool leads = threadIdx.x % 32 == 0;
    if (warp == 8) clear_foreign_rows<Layout>(s, base);
    if (warp == 9 && leads) load_right<Layout>(right, s, base);
    if (warp == 10 && leads)
      load_left<Layout>(left, s, base, 0,
                        TicketKeeper<typename Layout::Ring>(s.tickets, s.units(), rank_in_cluster<Layout>(),
                                                            base + Layout::tickets));
    if (warp == 11 && leads)
      load_left<Layout>(left, s, base, 1, TicketReader<typename Layout::Ring, false>(base + Layout::tickets));
  }
  leave<Layout>();
}

}  // namespace moeref::cuda::sm90
