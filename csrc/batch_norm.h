// Mathematics of batch_norm_leaky_relu that every backend shares; see lmdis_fast/reference/batch_norm.py.
#pragma once

#include "portable.h"

namespace lmdis {

// Sum of the gradient below the normalisation, and its sum times (x - mean), over a channel's values.
struct ChannelGradients {
  double sum, along;
};

// grad_x = scale g - level - fall (x - mean) for a gradient g below the normalisation.
struct NormGradient {
  double scale, level, fall;
};
LM_FUNCTION NormGradient norm_gradient(const ChannelGradients& g, double weight, double rstd, double count) {
  const double scale = weight * rstd;
  return {scale, scale * g.sum / count, scale * rstd * rstd * g.along / count};
}

}  // namespace lmdis
