// Small kernels that are right or hold one mistake: what the emulator has to tell apart. README.md lists them.
#pragma once

#include "../../csrc/cuda/device.cuh"

namespace lmdis {
namespace planted {

LM_DEVICE int lane() { return int(threadIdx.x % 32); }
LM_DEVICE int global_index() { return int(blockIdx.x * blockDim.x + threadIdx.x); }

// Sums of 256 numbers a block. The wrong one goes on to the next level of the tree while the last one is read.
template <bool right, class T>
LM_KERNEL(256, 4)
block_sums(const T* values, float* sums, int count) {
  LM_SHARED(float, partial, 256);
  const int thread = int(threadIdx.x), i = global_index();
  partial[thread] = i < count ? to_float(load(values + i)) : 0.0f;
  __syncthreads();
  for (int half = 128; half > 0; half /= 2) {
    if (thread < half) partial[thread] += partial[thread + half];
    if (right) __syncthreads();
  }
  if (thread == 0) store(sums + blockIdx.x, float(partial[0]));
}

// The rest takes `count` numbers and gives as many. Values in reverse, by blocks of 64:

// barriers: who does not come, or comes to another one
template <bool right>
LM_KERNEL(64, 1)
ended_before_barrier(const float* values, float* results, int count) {
  LM_SHARED(float, tile, 64);
  const int i = global_index(), thread = int(threadIdx.x);
  if (!right && i >= count) return;
  tile[thread] = i < count ? load(values + i) : 0.0f;
  __syncthreads();
  if (i < count) store(results + i, float(tile[thread ^ 1]));
}
template <bool right>
LM_KERNEL(64, 1)
two_barriers(const float* values, float* results, int) {
  LM_SHARED(float, tile, 64);
  const int thread = int(threadIdx.x);
  tile[thread] = load(values + global_index());
  if (right || thread < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  store(results + global_index(), float(tile[thread ^ 1]));
}
template <bool right>
LM_KERNEL(64, 1)
barrier_and_shuffle(const float* values, float* results, int) {
  const float value = load(values + global_index());
  if (right || threadIdx.x >= 16) __syncthreads();
  store(results + global_index(), __shfl_xor_sync(0xffffffffu, value, 1));
}

// masks: each number of a pair of lanes goes to the other
template <bool right>
LM_KERNEL(64, 1)
shuffle_outside_mask(const float* values, float* results, int) {
  const unsigned mask = right ? 0xffffffffu : 0x55555555u << (lane() & 1);
  store(results + global_index(), __shfl_xor_sync(mask, load(values + global_index()), 1));
}
template <bool right>
LM_KERNEL(64, 1)
shuffle_of_ended_lane(const float* values, float* results, int count) {
  if (!right && global_index() >= count) return;
  const float value = global_index() < count ? load(values + global_index()) : 0.0f;
  const float other = __shfl_xor_sync(0xffffffffu, value, 1);
  if (global_index() < count) store(results + global_index(), other);
}
template <bool right>
LM_KERNEL(64, 1)
mask_without_caller(const float* values, float* results, int) {
  store(results + global_index(), __shfl_xor_sync(right ? 0xffffffffu : 0x7fffffffu, load(values + global_index()), 1));
}
template <bool right>
LM_KERNEL(64, 1)
unlike_masks(const float* values, float* results, int) {
  const unsigned half = lane() < 16 ? 0x0000ffffu : 0xffff0000u;
  const unsigned mask = right || lane() < 16 ? half : 0xffffffffu;
  store(results + global_index(), __shfl_xor_sync(mask, load(values + global_index()), 1));
}
template <bool right>
LM_KERNEL(64, 1)
unlike_operations(const float* values, float* results, int) {
  float value = load(values + global_index());
  if (right || lane() < 16) {
    value = __shfl_xor_sync(0xffffffffu, value, 1);
  } else {
    value = __shfl_down_sync(0xffffffffu, value, 1);
  }
  store(results + global_index(), value);
}
// in blocks of 16 threads
template <bool right>
LM_KERNEL(64, 1)
lanes_beyond_block(const float* values, float* results, int) {
  store(results + global_index(), __shfl_xor_sync(right ? 0xffffu : 0xffffffffu, load(values + global_index()), 1));
}

// never written
template <bool right>
LM_KERNEL(64, 1)
unwritten_shared(const float* values, float* results, int count) {
  LM_SHARED(float, tile, 64);
  const int thread = int(threadIdx.x), i = global_index();
  if (i < count) tile[thread] = load(values + i);
  if (right && i >= count) tile[thread] = 0.0f;
  __syncthreads();
  const float other = tile[thread ^ 1];
  if (i < count) store(results + i, other);
}
// the same tile, in which another block has left its numbers
template <bool right>
LM_KERNEL(64, 1)
shared_of_another_block(const float* values, float* results, int) {
  LM_SHARED(float, tile, 64);
  const int thread = int(threadIdx.x);
  if (right || blockIdx.x == 0) tile[thread] = load(values + global_index());
  __syncthreads();
  store(results + global_index(), float(tile[thread ^ 1]));
}
template <bool right>
LM_KERNEL(64, 1)
unwritten_dynamic(const float* values, float* results, int) {
  LM_DYNAMIC_SHARED(float, tile);
  const int thread = int(threadIdx.x);
  if (right || thread > 0) tile[thread] = load(values + global_index());
  __syncthreads();
  store(results + global_index(), float(tile[thread ^ 1]));
}
template <bool right>
LM_KERNEL(64, 1)
unwritten_global(const float* values, float* results, int) {
  if (right) store(results + global_index(), load(values + (global_index() ^ 1)));
  if (load(results + global_index()) == 0) store(results + global_index(), 0.0f);
}
template <bool right>
LM_KERNEL(64, 1)
unwritten_output(const float* values, float* results, int count) {
  if (right || global_index() < count - 1) store(results + global_index(), load(values + (global_index() ^ 1)));
}

// bounds
template <bool right>
LM_KERNEL(64, 1)
read_beyond(const float* values, float* results, int count) {
  const int i = global_index();
  if (right && i >= count) return;
  const float value = load(values + (i ^ 1));
  if (i < count) store(results + i, value);
}
template <bool right>
LM_KERNEL(64, 1)
read_before(const float* values, float* results, int) {
  const int i = global_index();
  const float before = right && i == 0 ? 0.0f : load(values + i - 1);
  store(results + i, i % 2 ? before : load(values + i + 1));
}
template <bool right>
LM_KERNEL(64, 1)
write_beyond(const float* values, float* results, int count) {
  const int i = global_index();
  const float value = i < count ? load(values + (i ^ 1)) : 0.0f;
  if (!right || i < count) store(results + i, value);
}
template <bool right>
LM_KERNEL(64, 1)
shared_beyond(const float* values, float* results, int) {
  LM_SHARED(float, tile, 64);
  const int thread = int(threadIdx.x);
  tile[right ? thread : thread + 1] = load(values + global_index());
  __syncthreads();
  store(results + global_index(), float(tile[right ? thread ^ 1 : (thread ^ 1) + 1]));
}
template <bool right>
LM_KERNEL(64, 1)
dynamic_beyond(const float* values, float* results, int) {
  LM_DYNAMIC_SHARED(float, tile);
  const int thread = int(threadIdx.x), moved = right ? 0 : 1;
  tile[thread + moved] = load(values + global_index());
  __syncthreads();
  store(results + global_index(), float(tile[(thread ^ 1) + moved]));
}

// alignment: pairs, from a place that is a multiple of a pair or not
template <bool right>
LM_KERNEL(64, 1)
misaligned_vector(const float* values, float* results, int count) {
  const int i = 2 * global_index() + (right ? 0 : 1);
  if (i + 2 > count) return;
  const auto pair = load_vector<2>(values + i);
  Vector<float, 2> swapped;
  swapped[0] = pair[1], swapped[1] = pair[0];
  store_vector(results + i, swapped);
}
template <bool right>
LM_KERNEL(64, 1)
misaligned_shared(const float* values, float* results, int count) {
  LM_SHARED(float, tile, 130);
  const int i = 2 * int(threadIdx.x), moved = right ? 0 : 1, first = int(blockIdx.x) * 128;
  if (first + i < count) {
    tile[moved + i] = load(values + first + i);
    tile[moved + i + 1] = load(values + first + i + 1);
    const Vector<float, 2> pair = load_shared<2>(tile + moved + i);
    store(results + first + i, pair[1]);
    store(results + first + i + 1, pair[0]);
  }
}

// races
template <bool right>
LM_KERNEL(64, 1)
race_in_warp(const float* values, float* results, int) {
  LM_SHARED(float, tile, 64);
  const int thread = int(threadIdx.x);
  tile[thread] = 0.0f;
  __syncthreads();
  tile[thread] = load(values + global_index());
  if (right) __syncwarp();
  store(results + global_index(), float(tile[thread ^ 1]));
}
// a shuffle is no barrier for memory
template <bool right>
LM_KERNEL(64, 1)
race_past_shuffle(const float* values, float* results, int) {
  LM_SHARED(float, tile, 64);
  const int thread = int(threadIdx.x);
  tile[thread] = 0.0f;
  __syncthreads();
  tile[thread] = load(values + global_index());
  __shfl_xor_sync(0xffffffffu, thread, 1);
  if (right) __syncwarp();
  store(results + global_index(), float(tile[thread ^ 1]));
}
// halves of a warp that wait for themselves alone
template <bool right>
LM_KERNEL(64, 1)
race_between_groups(const float* values, float* results, int) {
  LM_SHARED(float, tile, 64);
  const int thread = int(threadIdx.x);
  tile[thread] = 0.0f;
  __syncthreads();
  tile[thread] = load(values + global_index());
  __syncwarp(0xffffu << (thread & 16));
  const float value = tile[right ? thread ^ 1 : thread ^ 17];
  store(results + global_index(), value);
}
// two warps
template <bool right>
LM_KERNEL(64, 1)
race_between_warps(const float* values, float* results, int) {
  LM_SHARED(float, tile, 64);
  const int thread = int(threadIdx.x);
  tile[thread] = 0.0f;
  __syncthreads();
  tile[thread] = load(values + (global_index() ^ 33));
  right ? __syncthreads() : __syncwarp();
  store(results + global_index(), float(tile[thread ^ 32]));
}
// each thread replaces what its neighbour reads
template <bool right>
LM_KERNEL(64, 1)
write_after_read(const float* values, float* results, int) {
  LM_SHARED(float, tile, 64);
  const int thread = int(threadIdx.x);
  tile[thread] = load(values + global_index());
  __syncthreads();
  const float value = tile[thread ^ 1];
  if (right) __syncthreads();
  tile[thread] = value;
  __syncthreads();
  store(results + global_index(), float(tile[thread]));
}
template <bool right>
LM_KERNEL(64, 1)
two_writers(const float* values, float* results, int) {
  LM_SHARED(float, tile, 65);
  const int thread = int(threadIdx.x);
  tile[thread] = load(values + global_index());
  if (!right || thread == 0) tile[64] = 1.0f;
  __syncthreads();
  store(results + global_index(), tile[thread ^ 1] * tile[64]);
}
template <bool right>
LM_KERNEL(64, 1)
race_in_global(const float* values, float* results, int) {
  const int i = global_index();
  store(results + (i ^ 1), load(values + i));
  if (right) __syncthreads();
  const float value = load(results + i);
  store(results + i, value);
}
template <bool right>
LM_KERNEL(64, 1)
blocks_read_blocks(const float* values, float* results, int count) {
  const int i = global_index();
  store(results + i, load(values + (i ^ 1)));
  __syncthreads();
  if (load(results + (right ? i ^ 1 : (i + 64) % count)) == 12345.0f) store(results + i, 0.0f);
}
template <bool right>
LM_KERNEL(64, 1)
blocks_write_same(const float* values, float* results, int count) {
  const int i = global_index();
  store(results + i, load(values + (i ^ 1)));
  if (!right && threadIdx.x == 0) store(results + count - 1, load(values + count - 2));
}

// what may not be touched so
template <bool right>
LM_KERNEL(64, 1)
input_written(const float* values, float* results, int) {
  const int i = global_index();
  const float value = load(values + (i ^ 1));
  store(right ? results + i : const_cast<float*>(values) + i, value);
}
template <bool right>
LM_KERNEL(64, 1)
direct_access(const float* values, float* results, int) {
  const int i = global_index();
  store(results + i, right ? load(values + (i ^ 1)) : values[i ^ 1]);
}
template <bool right>
LM_KERNEL(64, 1)
too_much_shared(const float* values, float* results, int) {
  LM_SHARED(float, tile, 8192);
  LM_SHARED(float, more, (right ? 4032 : 4033));
  const int thread = int(threadIdx.x);
  tile[thread] = load(values + global_index());
  more[thread] = 0.0f;
  __syncthreads();
  store(results + global_index(), tile[thread ^ 1] + more[thread]);
}

// atomics: sums of all values, in results[0], which was 0. The float sum depends on the order, the one of counts not.
LM_KERNEL(64, 1) float_sum(const float* values, float* results, int count) {
  if (global_index() < count) atomic_add(results, load(values + global_index()));
}
// in units of 1/65536, two's complement
LM_KERNEL(64, 1) fixed_sum(const float* values, unsigned long long* sum, int count) {
  if (global_index() < count)
    atomic_add(sum, static_cast<unsigned long long>(static_cast<long long>(load(values + global_index()) * 65536.0f)));
}
LM_KERNEL(64, 1) float_of_fixed(const unsigned long long* sum, float* results) {
  store(results, float(static_cast<long long>(load(sum))) / 65536.0f);
}
// the largest of numbers that are not negative, by way of shared memory
LM_KERNEL(64, 1) largest(const float* values, unsigned* result, int count) {
  LM_SHARED(unsigned, most, 1);
  if (threadIdx.x == 0) most[0] = 0;
  __syncthreads();
  if (global_index() < count) atomic_max(most + 0, __float_as_uint(load(values + global_index())));
  __syncthreads();
  if (threadIdx.x == 0) atomic_max(result, most[0]);
}
// atomic and plain at once
template <bool right>
LM_KERNEL(64, 1)
atomic_and_plain(const float* values, float* results, int count) {
  const int i = global_index();
  if (i < count) atomic_add(results + (i ^ 1), load(values + i));
  if (right) __syncthreads();
  if (i < count) store(results + i, load(results + i));
}

// Everything that shuffles and votes return: a number a lane, in the order of the test.
LM_KERNEL(32, 1) warp_results(const int* values, int* results, int width, int by) {
  const int lane = int(threadIdx.x), value = load(values + lane);
  store(results + lane, __shfl_sync(0xffffffffu, value, by, width));
  store(results + 32 + lane, __shfl_xor_sync(0xffffffffu, value, by, width));
  store(results + 64 + lane, __shfl_up_sync(0xffffffffu, value, unsigned(by), width));
  store(results + 96 + lane, __shfl_down_sync(0xffffffffu, value, unsigned(by), width));
  store(results + 128 + lane, int(__ballot_sync(0xffffffffu, value > by)));
  store(results + 160 + lane, int(__any_sync(0xffffffffu, value > by)) + 2 * int(__all_sync(0xffffffffu, value > by)));
  const double far = __shfl_sync(0xffffffffu, double(value) + 0.5, 31 - lane);
  store(results + 192 + lane, int(2 * far));
  const int some = __syncthreads_or(value > by), each = __syncthreads_and(value > by);
  const int how_many = __syncthreads_count(value > by);
  store(results + 224 + lane, (some != 0) + 2 * (each != 0) + 4 * how_many);
}

// The number of each thread of a grid in three dimensions.
LM_KERNEL(1024, 1) numbers(int* results) {
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned i = block * (blockDim.x * blockDim.y * blockDim.z) + thread;
  store(results + i, int(i));
}

// Shared arrays of narrow numbers and of vectors, passed on and stepped through.
LM_DEVICE float sum_of(LM_SHARED_POINTER(const float) from, int count) {
  float sum = 0;
  for (int i = 0; i < count; ++i) sum += from[i];
  return sum;
}
LM_KERNEL(64, 1) shared_kinds(const float* values, float* results, int) {
  LM_SHARED(BFloat16, narrow, 64);
  LM_SHARED(float, tile, 256);
  const int thread = int(threadIdx.x), i = global_index();
  narrow[thread] = from_float<BFloat16>(load(values + i));
  Vector<float, 4> four;
  for (int k = 0; k < 4; ++k) four[k] = load(values + i) * float(k);
  store_shared(tile + 4 * thread, four);
  __syncthreads();
  LM_SHARED_POINTER(float) own = tile + 4 * (thread ^ 1);
  own += 1;
  store(results + i, sum_of(own, 3) + 1000 * to_float(narrow[thread ^ 1]));
}

}  // namespace planted
}  // namespace lmdis
