// What pooling under softmaxes and under Gaussians share.
#pragma once

#include "../landmark_pool.h"
#include "landmark_pool.h"
#include "product.h"

namespace lmdis {
namespace LM_ISA {

template <class A>
LM_FUNCTION A* workspace_of(void* workspace, int64_t element) {
  return static_cast<A*>(workspace) + element;
}

// What forward and backward share: the band of a task, its buffers, and its tiles with normalised weights.
template <class S>
struct PoolBand : Band {
  using A = arithmetic<S>;
  enum { V = lanes<A>::count };
  const Maps& features;
  int channels;
  Cut cut;
  int64_t pixels;
  A *q, *planes, *more, *staging, *inverse;

  // q, feature planes, a second buffer for results, staging for either, the softmax's inverse.
  static size_t bytes(const Cut& cut, int64_t channels, int64_t features) {
    const int64_t pixels = plane_pitch<A>(cut), most = channels > features ? channels : features;
    using C = Carver<A>;
    return C::bytes(channels * pixels) + C::bytes(features * pixels) + 2 * C::bytes(most * pixels) + C::bytes(pixels);
  }

  PoolBand(const Maps& maps, int count, const Cut& how, int64_t task, Carver<A>& carver)
      : Band(band_of(maps, how, task)), features(maps), channels(count), cut(how) {
    pixels = plane_pitch<A>(cut);
    const int64_t most = channels > maps.c ? channels : maps.c;
    q = carver.take(channels * pixels), planes = carver.take(maps.c * pixels), more = carver.take(most * pixels);
    staging = carver.take(most * pixels), inverse = carver.take(pixels);
  }

  // visit(tile) for every tile from top to bottom, after fill(tile) has put the weights into q.
  template <class Fill, class Visit>
  void walk(Fill fill, Visit visit) const {
    for_tiles<A>(features, cut, *this, [&](const Tile& tile) {
      fill(tile);
      visit(tile);
    });
  }
};

}  // namespace LM_ISA
}  // namespace lmdis
