// The table of vector code, one for each instruction set that was compiled, and the choice among them.
#pragma once

#include "batch_norm.h"
#include "gaussian_splat.h"
#include "heatmap_moments.h"
#include "landmark_pool.h"
#include "resampling.h"
#include "tps_warp.h"

namespace lmdis {

struct Kernels {
  const char* instruction_set;
  void (*batch_norm_leaky_relu)(const BatchNorm&);
  void (*batch_norm_leaky_relu_backward)(const BatchNormBackward&);
  void (*heatmap_moments)(const HeatmapMoments&);
  void (*heatmap_moments_backward)(const HeatmapMomentsBackward&);
  void (*landmark_pool)(const LandmarkPool&);
  void (*landmark_pool_backward)(const LandmarkPoolBackward&);
  void (*gaussian_pool)(const GaussianPool&);
  void (*gaussian_pool_backward)(const GaussianPoolBackward&);
  void (*gaussian_splat)(const GaussianSplat&);
  void (*gaussian_splat_backward)(const GaussianSplatBackward&);
  void (*max_pool_2x2)(const MaxPool&);
  void (*max_pool_2x2_backward)(const MaxPoolBackward&);
  void (*upsample_add)(const UpsampleAdd&);
  void (*upsample_add_backward)(const UpsampleAddBackward&);
  void (*tps_warp)(const TpsWarp&);
  void (*tps_warp_backward)(const TpsWarpBackward&);
};

namespace baseline {
extern const Kernels kernels;
}
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define LM_HAS_AVX 1
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
namespace avx512_bf16 {
extern const Kernels kernels;
}
#endif

// The widest that this processor has, or what LMDIS_FAST_CPU_CAPABILITY names: baseline, avx2, avx512, avx512_bf16.
const Kernels& kernels();

}  // namespace lmdis
