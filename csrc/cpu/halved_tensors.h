// Tensors half as high and wide as others, for the entries of resampling and batch_norm.
#pragma once

#include "resampling.h"

#include "../entries/tensors.h"

namespace lmdis {

inline torch::headeronly::MemoryFormat format_of(const HalvedMaps& maps) {
  using torch::headeronly::MemoryFormat;
  return maps.interleaved ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

inline std::vector<int64_t> shape_of(const HalvedMaps& maps) {
  return {maps.images, maps.channels, maps.height / 2, maps.width / 2};
}

// In the layout and dtype of `larger`, which the maps describe.
inline Tensor empty_halved(const Tensor& larger, const HalvedMaps& maps) {
  return torch::stable::empty(shape_of(maps), larger.scalar_type(), std::nullopt, larger.device(), std::nullopt,
                              format_of(maps));
}

}  // namespace lmdis
