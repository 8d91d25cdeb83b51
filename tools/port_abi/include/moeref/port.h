/* A port of Mixture-of-Experts components, as `moeref validate --port LIBRARY.so` loads it. C99 and C++.
 *
 * A port is a shared library with one function, moeref_port_entry, that gives a table: what the port is and
 * can do, and run(), which computes one call of one component. The library is loaded by a process of its own,
 * never by moeref itself, so that a crash, a hang or a stray write is a finding about the port and not the
 * end of the run.
 *
 * The suite owns all memory. A call's buffers lie in one block with a known pattern before and behind each;
 * outputs are filled with a value that no computation gives. So these are found and named: a write outside a
 * buffer, a changed input, an output left unwritten. Each call is made twice with different contents in the
 * output buffers: results that depend on what the buffers held, or on earlier calls, are found too.
 *
 * Names, shapes and layouts are those of the golden files ("inputs/x", "params/gate.weight", "outputs/y",
 * "grads/x"); `moeref inspect FILE` shows them.
 */
#ifndef MOEREF_PORT_H
#define MOEREF_PORT_H

#include <stddef.h>
#include <stdint.h>

#include <dlpack/dlpack.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Version of this interface. Within a version, fields are only added at the end of a struct that has a
 * struct_size, which says how many a side knows of: read no field that lies behind the other side's
 * struct_size. */
#define MOEREF_PORT_ABI_VERSION 1u

/* On moeref_port_entry: its symbol must be visible. */
#if defined(_WIN32)
#define MOEREF_PORT_EXPORT __declspec(dllexport)
#else
#define MOEREF_PORT_EXPORT __attribute__((visibility("default")))
#endif

/* What run(), supports() and bench() return. Anything else breaks the interface, which is a finding. */
enum {
  MOEREF_OK = 0, /* supports(): yes. run(): every output is written, and nothing still works on the buffers */
  MOEREF_NOT_SUPPORTED =
      1, /* this port does not have it; counted and shown, never a pass. The text says what is missing */
  MOEREF_ERROR = 2, /* it has it and could not compute it: the case fails. The text says why */
  MOEREF_LOST = 3   /* of bench() alone: as MOEREF_ERROR, and this process can compute nothing more */
};

/* Bits of moeref_port.passes, and the values of moeref_call.pass. */
enum {
  MOEREF_FORWARD = 1, /* outputs */
  MOEREF_BACKWARD = 2 /* in a call: forward and backward, outputs and gradients */
};

/* moeref_port.ties: which experts are taken where selection scores are exactly equal at the cut. */
enum {
  MOEREF_TIES_OPEN = 0,     /* any of them */
  MOEREF_TIES_LOWEST_ID = 1 /* the lowest ids; another choice is then a failure */
};

/* moeref_named_tensor.flags */
enum {
  MOEREF_OPTIONAL =
      1 /* an output that may be left untouched as a whole: stages; moe's weights, ids and load */
};

/* One tensor of a call. This struct does not grow within a version: calls hold arrays of it. */
typedef struct moeref_named_tensor {
  /* "inputs/x", "params/gate.weight", "outputs/y", "grads/experts.down_projs", "stages/logits". */
  const char* name;
  /* Row-major and compact: strides is NULL, byte_offset 0; data is aligned to 256 bytes. ndim 0 is a scalar;
   * with an extent of 0 there is nothing behind data. bfloat16 is kDLBfloat with 16 bits; a boolean is
   * kDLUInt with 8 bits, 0 or 1, and so are codes of quantised weights (params/), 0 to 255; expert ids and
   * loads are kDLInt with 64 bits. */
  DLTensor tensor;
  /* MOEREF_OPTIONAL or 0. */
  uint32_t flags;
} moeref_named_tensor;

/* clang-format off */
/* Several processes per call.
 *
 * A port with max_processes >= n gets a call with ep_size, cp_size or dp_size = n in n processes, one per rank,
 * which run at the same time and each see their share. The suite starts at most 16 processes. A process keeps
 * its rank and its world_size for life, so that what a port sets up, such as a communicator, can stay.
 *
 * What a rank gets. `config` and `options` are those of the whole call: n_routed_experts is E;
 * tokens_per_rank, where it is not empty, says how many tokens each rank has, and where it is empty, each of
 * the first T % n ranks has one more than the others. T is nowhere said: it is the sum over the ranks. A rank
 * may have no tokens, and extents of 0 with it.
 *   by tokens    all inputs/ and cotangents/: the rows of the rank's own tokens, which are neighbours. Of moe
 *                and mlp, x of [B, S, D] comes as [1, own tokens, D], the tokens being in row-major order
 *   by experts   with ep_size = n, the parameters of the routed experts (gate_and_up_projs, down_projs,
 *                gate_up_proj_bias, down_proj_bias): rank r has the experts r E/n to (r + 1) E/n - 1. Expert
 *                ids are those of the whole call
 *   whole        all other parameters; all inputs of metrics
 *
 * What a rank writes. Together the ranks give what one process gives for the whole call:
 *   by tokens    the rows of its own tokens: y, weights, indices, gradients of x, of given weights and of
 *                scores, stages. Where other tokens enter into them (the auxiliary loss into the gradient of
 *                x, place and contents of all tokens into a fake gate's choice), they are those of all ranks,
 *                in the order of the ranks
 *   by experts   with ep_size = n, the gradients of its own experts, over the tokens of all ranks; of init,
 *                its own experts
 *   whole        everything else, on every rank and with the same bits: totals over all ranks of expert_load,
 *                cumulative_expert_load, aux_loss and of the gradients of all other parameters (gate, shared
 *                experts, projections; with cp_size or dp_size the experts' too); e_score_correction_bias
 *                after the update with the total load; other parameters of init; metrics
 *
 * The functions move bytes in host memory between the ranks: to hand around an NCCL id, or in a simple port
 * the data itself. All ranks make the same calls in the same order, from the thread of run(). They return
 * MOEREF_OK when this rank has sent and received everything; MOEREF_ERROR when a rank has died, has left its
 * run(), makes another call, disagrees about a size, or does not come in time, which is four fifths of what
 * run() may take. After an error all later calls fail at once: clean up and return MOEREF_ERROR. A pointer to
 * 0 bytes may be NULL; what is sent and what is received must not overlap. */
/* clang-format on */
typedef struct moeref_exchange {
  /* sizeof the suite's moeref_exchange. */
  size_t struct_size;
  /* As in the call. */
  int32_t rank;
  int32_t world_size;
  /* The first argument of the functions. */
  void* context;

  /* Every rank sends `bytes` bytes, the same number on all, and receives world_size * bytes: those of rank 0,
   * of rank 1, ..., its own among them. With 0 bytes it is a barrier. */
  int32_t (*all_gather)(void* context, const void* send, size_t bytes, void* receive);

  /* Sends send_bytes[r] bytes at send[r] to rank r, and receives receive_bytes[r] bytes from it at
   * receive[r], for all r; a rank's own part is copied. send_bytes[b] on rank a and receive_bytes[a] on rank
   * b must be the same. */
  int32_t (*all_to_all)(void* context, const void* const* send, const size_t* send_bytes,
                        void* const* receive, const size_t* receive_bytes);
} moeref_exchange;

/* One call. Everything in it belongs to the suite and is valid until run() returns: copy what you keep. */
typedef struct moeref_call {
  /* sizeof the suite's moeref_call. */
  size_t struct_size;
  /* "gate", "aux_loss", "bias_update", "fake_balanced_gate", "mlp", "experts", "moe", "init" or "metrics". */
  const char* component;
  /* MOEREF_FORWARD, or MOEREF_BACKWARD for forward and backward in one call. */
  uint32_t pass;
  /* A JSON object: MoEConfig's fields, for mlp its constructor's arguments. Every field is there; a field
   * that a port has never heard of is a convention at its default (moeref_port.conventions), and to be left
   * alone. */
  const char* config;
  /* A JSON object: the call options ("training", "gate_precision", "ep_size", ...). Every field is there;
   * those without a value are null. */
  const char* options;
  /* Of this process among those that make this call together (see moeref_exchange); 0 and 1 where it makes
   * the call alone. ep_size, cp_size and dp_size in `options` say what the ranks are for; alone, a port plays
   * them all inside one call, up to its max_ranks. */
  int32_t rank;
  int32_t world_size;
  /* inputs/, params/, and with backward cotangents/. Floating ones come in the config's dtype, or in another
   * one of the port's dtypes where the case says so. Not to be written to. */
  size_t input_count;
  const moeref_named_tensor* inputs;
  /* outputs/, with backward grads/, and stages/ that the port names in `stages`. Outputs and gradients have
   * the dtype that the documented system has there. Stages are float32; they are float64 in float64 cases,
   * and logits and scores with gate_precision float64. */
  size_t output_count;
  const moeref_named_tensor* outputs;
  /* With device kDLCUDA the cudaStream_t to work on; the suite waits for it after run(). Else NULL. */
  void* stream;
  /* With the other ranks of this call, for run() alone; NULL where world_size is 1. Of a suite whose
   * struct_size ends before it there are no several processes. */
  const moeref_exchange* exchange;
} moeref_call;

/* The table. It and everything it points to stay valid and unchanged while the library is loaded. Lists end
 * with NULL. */
typedef struct moeref_port {
  /* sizeof(moeref_port) and MOEREF_PORT_ABI_VERSION. */
  size_t struct_size;
  uint32_t abi_version;
  /* Of the port, for reports. */
  const char* name;
  const char* version;

  /* What it computes, by the names of moeref_call.component. */
  const char* const* components;
  /* clang-format off */
  /* Intermediate tensors that it writes; they show which stage went wrong first. NULL or empty: none.
   *   "logits"           [tokens, E]           of the gate; the choice of experts must be what they lead to
   *   "scores"           [tokens, E]           of the gate, as the auxiliary loss sees them: normalised where asked
   *   "up_projection"    [tokens, k, 2I or I]  with its bias
   *   "activation"       [tokens, k, I]        times the routing weight, unless that comes after the down projection
   *   "down_projection"  [tokens, k, D]        with its bias, before a routing weight that comes after it
   * In those of the experts, rows of masked tokens and of slots without an expert are 0. */
  /* clang-format on */
  const char* const* stages;
  /* "float32", "bfloat16", "float16", "float64": the config's dtype, and that of inputs. */
  const char* const* dtypes;
  /* MOEREF_FORWARD, or MOEREF_FORWARD | MOEREF_BACKWARD. */
  uint32_t passes;
  /* A DLDeviceType: where the tensors of a call lie. kDLCPU, or kDLCUDA: device 0 of those that
   * CUDA_VISIBLE_DEVICES leaves, with several processes the one of the rank's number. */
  int32_t device;
  /* MOEREF_TIES_OPEN or MOEREF_TIES_LOWEST_ID. */
  uint32_t ties;
  /* What sums are made in: "float32" (also meant by NULL), "float64", "bfloat16", "float16". Sums that are
   * better than plain float32 (compensated, split) are "float64": a port that says float32 and returns the
   * correctly rounded result everywhere is accused of calling the reference. */
  const char* accumulation;
  /* What intermediate tensors are held in; NULL or "" = the case's dtype. */
  const char* storage;
  /* 1: the same call gives the same bits, every time; 0: it may not. */
  uint32_t deterministic;
  /* The largest ep_size, cp_size or dp_size that run() plays inside one call; 1 = none. Calls with more ranks
   * than this and than max_processes are counted as not supported. */
  int32_t max_ranks;

  /* Optional, may be NULL: finer than the lists above. MOEREF_OK, or MOEREF_NOT_SUPPORTED with the reason as
   * a text of at most `size` bytes with its end. Data is not to be looked at. After its yes, a run() that
   * gives MOEREF_NOT_SUPPORTED is a failure: the capability was claimed. */
  int32_t (*supports)(const moeref_call* call, char* reason, size_t size);

  /* Computes. One thread at a time calls it. It may start threads, and ends or parks them before it returns.
   * It may print: stdout and stderr are kept and shown when something goes wrong. It must not end the
   * process, and no C++ exception may leave it. `error` takes the reason for what is not MOEREF_OK. */
  int32_t (*run)(const moeref_call* call, char* error, size_t size);

  /* The largest world_size: calls with up to so many ranks are made by one process per rank
   * (moeref_exchange), rather than by one that plays them. 0 or 1: none. With device kDLCUDA rank r works on
   * device r, which is current for the driver and for the runtime when run() is called; calls with more ranks
   * than there are devices are not supported, unless moeref is told to share them (--share-devices). */
  int32_t max_processes;

  /* clang-format off */
  /* Optional, may be NULL: times a component, for `moeref bench`. `request` and `answer` are JSON objects; the answer
   * has at most `size` bytes with its end. Of a table whose struct_size ends before it there is no benchmark.
   *   {"request": "facts"}
   *     {"facts": [["device", "NVIDIA H200"], ...], "threads": 0}
   *     Titles and texts about the machine, for the report; how many threads compute, 0 where a device does
   *   {"request": "measure", "component": "experts", "config": {...}, "options": {...}, "tokens": 8192, "repeat": 10}
   *     {"measurements": [{"pass": "forward", "median_ms": 1.5, "least_ms": 1.4, "most_ms": 1.7}, ...]}
   *     Over `repeat` rounds, on inputs that the port makes for itself. `pass` is "forward" or "forward+backward".
   *     Figures that a port may add have the names and meanings of `moeref bench --json`: dense_ms, floor_ms,
   *     memory_bytes, kept_bytes, least_kept_bytes, imbalance, and the text kernels
   * With anything but MOEREF_OK the answer is the reason, as plain text. After MOEREF_LOST the process is ended, and
   * what comes next is measured in another one. */
  /* clang-format on */
  int32_t (*bench)(const char* request, char* answer, size_t size);

  /* 1: a token gives the same bits alone, in every batch, at every place in it and beside any other tokens;
   * 0: it may not. Of a table whose struct_size ends before it: 0. */
  uint32_t batch_invariant;
  /* Optional, may be NULL: where init's values come from. "counter": the reference's generator (SPEC 7), so
   * that they are compared one by one; NULL, "" or "own": the port's own generator, judged by statistics
   * alone. */
  const char* init_generator;
  /* Optional, may be NULL: to what it rounds the operands of products of float32 tensors before it multiplies
   * them. "tf32": to nearest numbers of 10 bits after the point, sums stay float32; its float32 calls are
   * judged by the bounds of such products (the call option float32_products). NULL, "" or "float32": they
   * are read as they are. */
  const char* products;
  /* clang-format off */
  /* Optional, may be NULL: the conventions that it knows, by the names of the config's fields that `moeref list fields`
   * marks as such ("norm_eps", "group_score", ...). A call in which another one is not at its default is not
   * supported, whatever supports() says. Of a table whose struct_size ends before it: none. */
  /* clang-format on */
  const char* const* conventions;
} moeref_port;

/* What the library exports. NULL for a version that it does not speak. Called once, before anything else. */
typedef const moeref_port* (*moeref_port_entry_function)(uint32_t abi_version);
MOEREF_PORT_EXPORT const moeref_port* moeref_port_entry(uint32_t abi_version);

#ifdef __cplusplus
}
#endif

#endif /* MOEREF_PORT_H */
