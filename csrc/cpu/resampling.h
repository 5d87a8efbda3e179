// What the vector code of max_pool_2x2 and upsample_add is called with.
#pragma once

#include "bands.h"

namespace lmdis {

// Maps, and maps of half their height and width, rounded down, whose pixels stand for the windows of 2 x 2 pixels. Both
// are dense: planes after each other, or the channels of a pixel side by side.
struct HalvedMaps {
  Dtype dtype;
  bool interleaved;
  int64_t images, channels, height, width;  // of the larger maps
};

struct MaxPool {
  HalvedMaps maps;
  const void* x;
  void* out;  // halved
};

struct MaxPoolBackward {
  HalvedMaps maps;
  const void *x, *grad;  // grad is halved
  void* grad_x;
};

struct UpsampleAdd {
  HalvedMaps maps;
  const void *x, *skip;  // x is halved
  void* out;
};

struct UpsampleAddBackward {
  HalvedMaps maps;
  const void* grad;
  void* grad_x;  // halved
};

}  // namespace lmdis
