// The emulated device against what CUDA says of the real one.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <thread>
#include <vector>

#include "cuda_impl/memory/ptx_sm80.cuh"

namespace moeref::cuda {
namespace {

/// An array in device memory, which its copies share: a launch copies what its arguments name.
template <class T>
struct Array {
  explicit Array(const std::vector<T>& values) : count(values.size()) {
    void* memory = nullptr;
    cudaMalloc(&memory, count * sizeof(T));
    owner.reset(memory, cudaFree);
    data = static_cast<T*>(memory);
    cudaMemcpy(data, values.data(), count * sizeof(T), cudaMemcpyHostToDevice);
  }
  std::vector<T> get() const { return {data, data + count}; }
  std::size_t count;
  std::shared_ptr<void> owner;
  T* data = nullptr;
};

/// A failed launch stays with its thread: each in one of its own.
template <class F>
cudaError_t error_of(const F& launch) {
  cudaError_t error = cudaSuccess;
  std::thread([&] {
    launch();
    error = cudaDeviceSynchronize();
  }).join();
  return error;
}

__global__ void exchange_in_warp(unsigned* out) {
  const unsigned lane = threadIdx.x % 32;
  unsigned* mine = out + threadIdx.x * 6;
  mine[0] = __shfl_xor_sync(0xffffffffu, threadIdx.x, 5);
  mine[1] = __shfl_up_sync(0xffffffffu, threadIdx.x, 3);
  mine[2] = __ballot_sync(0xffffffffu, lane % 3 == 0);
  mine[3] = __match_any_sync(0xffffffffu, lane / 8);
  mine[4] = __reduce_max_sync(0xffffffffu, lane ^ 9);
  mine[5] = __reduce_min_sync(0xffffffffu, threadIdx.x);
}

TEST(Emulation, WarpsExchange) {
  const Array<unsigned> out(std::vector<unsigned>(48 * 6));  // the second warp has 16 lanes
  exchange_in_warp<<<1, 48>>>(out.data);
  const auto got = out.get();
  for (unsigned t = 0; t < 48; ++t) {
    const unsigned lane = t % 32, lanes = t < 32 ? 32 : 16, first = t - lane;
    const unsigned* mine = &got[t * 6];
    EXPECT_EQ(mine[0], first + (lane ^ 5));
    EXPECT_EQ(mine[1], lane < 3 ? t : t - 3);
    EXPECT_EQ(mine[2], 0x49249249u & (lanes == 32 ? 0xffffffffu : 0xffffu));
    EXPECT_EQ(mine[3], 0xffu << lane / 8 * 8);
    EXPECT_EQ(mine[4], lanes - 1);
    EXPECT_EQ(mine[5], first);
  }
}

__global__ void reverse(const int* in, int* out, int threads) {
  extern __shared__ int shared[];
  shared[threadIdx.x] = in[blockIdx.x * threads + threadIdx.x];
  __syncthreads();
  out[blockIdx.x * threads + threadIdx.x] = shared[threads - 1 - threadIdx.x];
}

TEST(Emulation, BlocksShareMemoryBehindBarriers) {
  std::vector<int> values(3 * 200);
  for (int i = 0; i < 600; ++i) values[i] = i;
  const Array<int> in(values), out(values);
  for (int launch = 0; launch < 2; ++launch) {  // in both orders
    reverse<<<3, 200, 800>>>(in.data, out.data, 200);
    const auto got = out.get();
    for (int i = 0; i < 600; ++i) EXPECT_EQ(got[i], i / 200 * 200 + 199 - i % 200);
  }
}

__global__ void diverge(int way) {
  if (way == 0 && threadIdx.x < 20) {
    __syncthreads();
  } else if (way == 0) {
    __syncthreads();
  } else if (way == 1 && threadIdx.x < 20) {
    __syncthreads();
  } else if (way == 1) {
    __syncwarp();
  } else if (threadIdx.x < 20) {
    __shfl_xor_sync(0xffffffffu, 0, 1);
  } else {
    __ballot_sync(0xffffffffu, 1);
  }
}

TEST(Emulation, WaitsThatCannotEndFailTheLaunch) {
  for (const int way : {0, 1, 2}) {
    const auto launch = [&] { diverge<<<2, 64>>>(way); };
    EXPECT_EQ(error_of(launch), cudaErrorLaunchFailure) << way;
  }
  const auto fine = [] { diverge<<<2, 20>>>(0); };
  EXPECT_EQ(error_of(fine), cudaSuccess);
}

TEST(Emulation, RefusesWhatADeviceRefuses) {
  const Array<unsigned> out(std::vector<unsigned>(6));
  exchange_in_warp<<<0, 32>>>(out.data);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidConfiguration);
  exchange_in_warp<<<1, 1025>>>(out.data);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidConfiguration);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

__global__ void last_one_wins(unsigned* out) { *out = blockIdx.x * blockDim.x + threadIdx.x; }

TEST(Emulation, LaunchesAlternateTheOrder) {
  const Array<unsigned> out(std::vector<unsigned>(1));
  std::vector<unsigned> winners;
  for (int launch = 0; launch < 2; ++launch) {
    last_one_wins<<<3, 50>>>(out.data);
    winners.push_back(out.get()[0]);
  }
  EXPECT_NE(winners[0], winners[1]);
}

// a [16, 16] and b [16, 8], row-major or their transposes, through shared memory and ldmatrix.
template <class T, bool kTransposed>
__global__ void product(const T* a, const T* b, float* out) {
  extern __shared__ __align__(16) unsigned char shared[];
  auto* words = reinterpret_cast<T*>(shared);
  const int lane = threadIdx.x, in = lane % 8, matrix = lane / 8;
  copy_async(shared_address(words + lane * 8), a + lane * 8, true);
  copy_async(shared_address(words + 256 + lane * 8), b + lane % 16 * 8, lane < 16);
  commit_copies();
  wait_copies<0>();
  __syncwarp();
  unsigned left[4], right[4];
  // Matrices: rows 0-7, rows 8-15 of K 0-7, then of K 8-15. b lies in K rows of 8: two matrices, twice.
  const int row = matrix % 2 * 8, k = matrix / 2 * 8;
  load_matrices<kTransposed>(
      left, shared_address(kTransposed ? words + (k + in) * 16 + row : words + (row + in) * 16 + k));
  load_matrices<true>(right, shared_address(words + 256 + (row + in) * 8));
  float sum[4] = {1, 2, 3, 4};
  multiply_add<T>(sum, left, right[0], right[1]);
  for (int q = 0; q < 4; ++q) out[(lane / 4 + q / 2 * 8) * 8 + lane % 4 * 2 + q % 2] = sum[q];
}

template <class T>
void expect_product(T (*narrow)(float)) {
  for (const bool transposed : {false, true}) {
    std::vector<T> a(256), b(128);
    const auto left = [](int m, int k) { return static_cast<float>((m * 7 + k * 3) % 11 - 5); };
    const auto right = [](int k, int n) { return static_cast<float>((k * 5 + n * 2) % 13 - 6); };
    for (int m = 0; m < 16; ++m)
      for (int k = 0; k < 16; ++k) a[transposed ? k * 16 + m : m * 16 + k] = narrow(left(m, k));
    for (int k = 0; k < 16; ++k)
      for (int n = 0; n < 8; ++n) b[k * 8 + n] = narrow(right(k, n));
    const Array<T> device_a(a), device_b(b);
    const Array<float> out(std::vector<float>(128));
    if (transposed)
      product<T, true><<<1, 32, 1024>>>(device_a.data, device_b.data, out.data);
    else
      product<T, false><<<1, 32, 1024>>>(device_a.data, device_b.data, out.data);
    for (int m = 0; m < 16; ++m)
      for (int n = 0; n < 8; ++n) {
        float want = 1 + m / 8 * 2 + n % 2;
        for (int k = 0; k < 16; ++k) want += left(m, k) * right(k, n);
        EXPECT_EQ(out.get()[m * 8 + n], want) << m << ' ' << n << ' ' << transposed;
      }
  }
}

TEST(Emulation, TensorCoresMultiply) {
  expect_product<__nv_bfloat16>([](float v) { return __float2bfloat16(v); });
  expect_product<__half>([](float v) { return __float2half_rn(v); });
}

// float16 has 65536 values: each is the float that it stands for, and rounding goes to the nearer neighbour.
TEST(Emulation, Float16RoundsToNearestEven) {
  for (unsigned bits = 0; bits < 0x7c00; ++bits) {
    const __half half{static_cast<unsigned short>(bits)}, next{static_cast<unsigned short>(bits + 1)};
    const float value = __half2float(half), above = bits + 1 < 0x7c00 ? __half2float(next) : 65536.0f;
    ASSERT_EQ(value, bits < 0x400 ? std::ldexp(bits, -24)
                                  : std::ldexp(1024 + bits % 1024, static_cast<int>(bits / 1024) - 25));
    EXPECT_EQ(__float2half_rn(value).bits, bits);
    EXPECT_EQ(__float2half_rn(-value).bits, bits | 0x8000u);
    const float middle = value + (above - value) / 2;
    EXPECT_EQ(__float2half_rn(std::nextafter(middle, 0.0f)).bits, bits);
    EXPECT_EQ(__float2half_rn(std::nextafter(middle, 1e9f)).bits, bits + 1);
    EXPECT_EQ(__float2half_rn(middle).bits, bits + bits % 2);
  }
}

__global__ void read_before_the_wait(const unsigned* in, unsigned* out) {
  extern __shared__ __align__(16) unsigned char shared[];
  const auto* words = reinterpret_cast<const unsigned*>(shared);
  for (int i = 0; i < 2; ++i) {
    copy_async(shared_address(shared) + 16 * i, in + 4 * i, true);
    commit_copies();
  }
  out[0] = words[0];
  wait_copies<1>();
  out[1] = words[0], out[2] = words[4];
  wait_copies<0>();
  out[3] = words[4];
}

TEST(Emulation, CopiesArriveWhenWaitedFor) {
  const Array<unsigned> in(std::vector<unsigned>{1, 2, 3, 4, 5, 6, 7, 8}), out(std::vector<unsigned>(4));
  read_before_the_wait<<<1, 1, 32>>>(in.data, out.data);
  EXPECT_EQ(out.get(), (std::vector<unsigned>{0xffffffffu, 1, 0xffffffffu, 5}));
}

__global__ void add_one(int* at) { atomicAdd(at, 1); }

TEST(Emulation, GraphsReplay) {
  const Array<int> at(std::vector<int>(1));
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  cudaStreamCreate(&stream);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  add_one<<<2, 3, 0, stream>>>(at.data);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorNotSupported);  // not while it captures
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  EXPECT_EQ(at.get()[0], 0);
  for (int i = 1; i <= 3; ++i) {
    cudaGraphLaunch(exec, stream);
    EXPECT_EQ(at.get()[0], 6 * i);
  }
  cudaGraphExecDestroy(exec), cudaGraphDestroy(graph), cudaStreamDestroy(stream);
}

__global__ void write_at(char* data, int at) { data[at] = 1; }

TEST(EmulationDeathTest, NoticesWritesBehindAnAllocation) {
  const auto write = [](int at) {
    Array<char> ten(std::vector<char>(10));
    write_at<<<1, 1>>>(ten.data, at);
  };
  write(9);
  EXPECT_DEATH(write(10), "byte 0 behind an allocation of 10 was written|heap-buffer-overflow");
}

}  // namespace
}  // namespace moeref::cuda
