// What the vector code of batch_norm_leaky_relu is called with.
#pragma once

#include "bands.h"
#include "resampling.h"

namespace lmdis {

struct BatchNorm {
  const void* x;  // dense: planes after each other, or the channels of a pixel side by side
  Dtype dtype;
  int64_t images, channels, height, width;
  bool interleaved;
  double eps, slope;
  const void *weight, *bias;   // (C); the vectors are all in the arithmetic type
  Dense mean, rstd, variance;  // (C), the variance without bias
  void* out;                   // like x; twice as high and wide if upsampled
  void* workspace;             // batch_norm_workspace() bytes
  bool upsampled;              // whether each pixel of the result is written four times; nothing is in windows then
  bool in_windows;             // whether any of the following is wanted; height and width are even then
  const void* low;             // half as high and wide as x: added to the result, each pixel four times
  void* pooled;                // the maxima of the result's windows of 2 x 2 pixels
};

struct BatchNormBackward {
  BatchNorm forward;  // its mean and rstd are inputs here; out is there where grad_pooled is; no low, no pooled
  const void* grad;   // like out; null where grad_pooled is all there is
  void* grad_x;       // like x, or null
  Dense grad_weight, grad_bias;
  const void* grad_pooled;  // half as high and wide, or null
  void* total;              // like x: memory for the gradient before it passes the norm, gathered from both, or from
                            // the upsampled pixels; it may be grad_x
  void* grad_low;           // half as high and wide, or null
};

LM_FUNCTION int64_t pixels_of(const BatchNorm& call) { return call.height * call.width; }  // of an image

// Tasks are runs of pixels (interleaved) or of one channel's planes, cut by size alone: of 64 K values, or more where
// that is needed so that their records, 16 bytes a channel, take no more than a float per pixel. Whole multiples of 64
// pixels leave no tails between vectors.
struct NormCut {
  int64_t step;    // pixels, or images, of a task
  int64_t pieces;  // tasks, or tasks of a channel
};
// With windows a task has whole rows of them, and whole rows where pixels are upsampled.
LM_FUNCTION NormCut norm_cut(const BatchNorm& call) {
  const int64_t values = 65536, whole = call.interleaved ? call.images * pixels_of(call) : call.images;
  const int64_t fitting = values / (call.interleaved ? call.channels : pixels_of(call));
  const int64_t least = call.interleaved ? 4 * call.channels : 4;
  const int64_t whole_rows = call.upsampled ? call.width : call.in_windows ? 2 * call.width : 64;
  int64_t multiple = whole_rows ? whole_rows : 64;
  while (multiple % 64) multiple += whole_rows;
  const int64_t about = fitting > least ? fitting : least;
  const int64_t step = call.interleaved ? (about + multiple - 1) / multiple * multiple : about;
  return {step, whole ? (whole + step - 1) / step : 0};
}

// Of the result, in which a pixel of x is a window where it is upsampled.
LM_FUNCTION HalvedMaps windows_of(const BatchNorm& call) {
  const int64_t times = call.upsampled ? 2 : 1;
  return {call.dtype, call.interleaved, call.images, call.channels, times * call.height, times * call.width};
}

// Lanes after which the channels of interleaved values repeat, for any instruction set: lcm(C, 64).
LM_FUNCTION int64_t norm_lanes(int64_t channels) {
  int64_t common = 64;
  while (channels % common) common /= 2;
  return channels / common * 64;
}

// Bytes: two numbers for each channel of each task, and five tables.
LM_FUNCTION int64_t batch_norm_workspace(const BatchNorm& call) {
  const int64_t numbers =
      2 * call.channels * norm_cut(call).pieces + 5 * (call.interleaved ? norm_lanes(call.channels) : 0);
  return numbers * int64_t(sizeof(double)) + 64;
}

}  // namespace lmdis
