// The vector code without torch: the baseline kernels of four rooms against plain loops in double. It is compiled for
// the machine at hand with sanitizers, and for another processor (tests/test_vector_code.py).
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <functional>
#include <vector>

#include "../../csrc/cpu/kernels.h"

namespace lmdis {

// Every task by itself, the last one first, with scratch memory of exactly the size asked for.
void parallel_tasks(int64_t count, size_t scratch_bytes, void* context,
                    void (*body)(void* context, char* scratch, int64_t first, int64_t last)) {
  for (int64_t task = count - 1; task >= 0; --task) {
    char* scratch = static_cast<char*>(aligned_alloc(64, (scratch_bytes + 63) / 64 * 64));
    body(context, scratch, task, task + 1);
    free(scratch);
  }
}

namespace {

int failures = 0;

double uniform() {  // in [-1, 1), the same on every machine
  static uint64_t state = 20180618;
  state = state * 6364136223846793005u + 1442695040888963407u;
  return double(state >> 11) / double(1ull << 52) - 1;
}

float to_float(float x) { return x; }
float to_float(double x) { return float(x); }
float to_float(uint16_t bits) {  // bfloat16
  const uint32_t wide = uint32_t(bits) << 16;
  float x;
  memcpy(&x, &wide, sizeof x);
  return x;
}
struct Half {  // IEEE 754, which not every compiler has as a type
  uint16_t bits;
};
float to_float(Half x) {
  const int exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
  const double size = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
  return float(x.bits >> 15 ? -size : size);
}
void assign(float& to, double x) { to = float(x); }
void assign(double& to, double x) { to = x; }
void assign(Half& to, double x) {  // of normal size, cut off
  int exponent = 0;
  const double fraction = frexp(fabs(x), &exponent);  // in [0.5, 1)
  to.bits = uint16_t((x < 0) << 15);
  if (exponent > -14) to.bits |= uint16_t((exponent + 14) << 10 | (int(fraction * 2048) & 1023));
}
void assign(uint16_t& to, double x) {
  const float narrow = float(x);
  uint32_t bits;
  memcpy(&bits, &narrow, sizeof bits);
  to = uint16_t(bits >> 16);
}
double value(double x) { return x; }
template <class S>
double value(S x) {
  return to_float(x);
}

void expect_near(const char* what, double found, double wanted, double allowed) {
  if (fabs(found - wanted) <= allowed) return;
  printf("%s: %.9g against %.9g\n", what, found, wanted);
  ++failures;
}

// Memory that ends where its allocation ends, so that a sanitizer sees the first element beyond.
template <class S>
struct Array {
  S* data;
  explicit Array(size_t count) : data(static_cast<S*>(malloc(count * sizeof(S)))) {
    memset(data, 0xff, count * sizeof(S));
  }
  Array(const Array&) = delete;
  ~Array() { free(data); }
};

Maps maps_of(void* data, Dtype dtype, int64_t n, int64_t c, int64_t h, int64_t w, bool channels_last) {
  if (channels_last) return {data, dtype, n, c, h, w, c * h * w, 1, w * c, c};
  return {data, dtype, n, c, h, w, c * h * w, h * w, w, 1};
}
int64_t place(const Maps& m, int64_t n, int64_t c, int64_t y, int64_t x) {
  return n * m.stride_n + c * m.stride_c + y * m.stride_h + x * m.stride_w;
}

constexpr double kTemperature = 0.7, kEps = 0.2;

// sum of weights times results of heatmap_moments over channels, with the background last; and the results.
double moments(const std::function<double(int64_t, int64_t, int64_t)>& z, int64_t count, int64_t h, int64_t w,
               const std::vector<double>& weights, std::vector<double>* results) {
  std::vector<double> q(size_t((count + 1) * h * w));
  for (int64_t y = 0; y < h; ++y)
    for (int64_t x = 0; x < w; ++x) {
      double sum = 0;
      for (int64_t k = 0; k <= count; ++k) sum += q[size_t((k * h + y) * w + x)] = exp(z(k, y, x) / kTemperature);
      for (int64_t k = 0; k <= count; ++k) q[size_t((k * h + y) * w + x)] /= sum;
    }
  double total = 0;
  for (int64_t k = 0; k < count; ++k) {
    double mass = 0, mx = 0, my = 0, xx = 0, yy = 0;
    const auto walk = [&](const std::function<void(double, double, double)>& pixel) {
      for (int64_t y = 0; y < h; ++y)
        for (int64_t x = 0; x < w; ++x)
          pixel(q[size_t((k * h + y) * w + x)], double(2 * x + 1) / double(w) - 1, double(2 * y + 1) / double(h) - 1);
    };
    walk([&](double p, double x, double y) { mass += p, mx += p * x, my += p * y; });
    const double divisor = mass + kEps, scale_x = double(w) / sqrt(double(h * w)),
                 scale_y = double(h) / sqrt(double(h * w));
    mx /= divisor, my /= divisor;
    walk([&](double p, double x, double y) {
      xx += p * scale_x * scale_x * (x - mx) * (x - mx), yy += p * scale_y * scale_y * (y - my) * (y - my);
    });
    const double found[5] = {mx, my, xx / divisor, yy / divisor, mass};
    for (int i = 0; i < 5; ++i) {
      total += weights[size_t(5 * k + i)] * found[i];
      if (results) results->push_back(found[i]);
    }
  }
  return total;
}

template <class S, class A>
void check_moments(Dtype dtype, int64_t n, int64_t count, int64_t h, int64_t w, bool last, double near) {
  const size_t numbers = size_t(n * (count + 1) * h * w);
  Array<S> logits(numbers), gradient(numbers);
  for (size_t i = 0; i < numbers; ++i) assign(logits.data[i], 3 * uniform());
  HeatmapMoments call{};
  call.logits = maps_of(logits.data, dtype, n, count + 1, h, w, last);
  call.over = Over::channels;
  call.count = count;
  call.temperature = kTemperature;
  call.eps = kEps;
  call.second = 2;
  Array<A> coords(size_t(n * count * 2)), variance(size_t(n * count * 2)), mass(size_t(n * count));
  Array<char> workspace(size_t(heatmap_moments_workspace(call)));
  call.coords = coords.data, call.variance = variance.data, call.mass = mass.data, call.workspace = workspace.data;
  baseline::kernels.heatmap_moments(call);

  Array<A> of_coords(size_t(n * count * 2)), of_variance(size_t(n * count * 2)), of_mass(size_t(n * count));
  for (int64_t i = 0; i < n * count * 2; ++i) of_coords.data[i] = A(uniform()), of_variance.data[i] = A(uniform());
  for (int64_t i = 0; i < n * count; ++i) of_mass.data[i] = A(uniform() * 0.01);
  HeatmapMomentsBackward back{};
  back.forward = call;
  back.grad_coords = of_coords.data, back.grad_variance = of_variance.data, back.grad_mass = of_mass.data;
  back.grad = maps_of(gradient.data, dtype, n, count + 1, h, w, last);
  baseline::kernels.heatmap_moments_backward(back);

  for (int64_t image = 0; image < n; ++image) {
    std::vector<double> weights, wanted, direction(numbers / size_t(n));
    for (int64_t k = image * count; k < (image + 1) * count; ++k)
      for (double weight :
           {double(of_coords.data[2 * k]), double(of_coords.data[2 * k + 1]), double(of_variance.data[2 * k]),
            double(of_variance.data[2 * k + 1]), double(of_mass.data[k])})
        weights.push_back(weight);
    for (double& d : direction) d = uniform();
    const auto moved = [&](double step) {
      return [&, step](int64_t k, int64_t y, int64_t x) {
        return value(logits.data[place(call.logits, image, k, y, x)]) + step * direction[size_t((k * h + y) * w + x)];
      };
    };
    moments(moved(0), count, h, w, weights, &wanted);
    for (int64_t k = 0; k < count; ++k) {
      const int64_t at = image * count + k;
      const double found[5] = {coords.data[2 * at], coords.data[2 * at + 1], variance.data[2 * at],
                               variance.data[2 * at + 1], mass.data[at]};
      for (int i = 0; i < 5; ++i) {
        const double want = wanted[size_t(5 * k + i)];
        expect_near("heatmap_moments", found[i], want, (sizeof(A) == 8 ? 1e-11 : 5e-6) * (1 + fabs(want)));
      }
    }
    const double step = 1e-4;
    const double slope =
        (moments(moved(step), count, h, w, weights, nullptr) - moments(moved(-step), count, h, w, weights, nullptr)) /
        (2 * step);
    double along = 0, magnitude = 0;
    for (int64_t k = 0; k <= count; ++k)
      for (int64_t y = 0; y < h; ++y)
        for (int64_t x = 0; x < w; ++x) {
          const double term =
              value(gradient.data[place(back.grad, image, k, y, x)]) * direction[size_t((k * h + y) * w + x)];
          along += term, magnitude += fabs(term);
        }
    expect_near("heatmap_moments_backward", along, slope, near * magnitude + 1e-7);
  }
}

template <class S, class A>
void check_splat(Dtype dtype, int64_t n, int64_t landmarks, int64_t h, int64_t w, double near) {
  const double sigma[2] = {0.4, 0.9}, gain[2] = {1.5, 0.5};
  Array<S> out(size_t(n * 2 * landmarks * h * w));
  Array<A> coords(size_t(n * landmarks * 2));
  for (int64_t i = 0; i < n * landmarks * 2; ++i) coords.data[i] = A(1.2 * uniform());
  GaussianSplat call{};
  call.maps = maps_of(out.data, dtype, n, 2 * landmarks, h, w, false);
  call.normalize = Normalize::peak;
  call.landmarks = landmarks, call.levels = 2;
  call.sigma = sigma, call.gain = gain;
  call.coords = coords.data;
  baseline::kernels.gaussian_splat(call);
  for (int64_t image = 0; image < n; ++image)
    for (int64_t level = 0; level < 2; ++level)
      for (int64_t k = 0; k < landmarks; ++k)
        for (int64_t y = 0; y < h; ++y)
          for (int64_t x = 0; x < w; ++x) {
            const A* point = coords.data + 2 * (image * landmarks + k);
            const double side = sqrt(double(h * w)),
                         dx = double(w) / side * (double(2 * x + 1) / double(w) - 1 - point[0]);
            const double dy = double(h) / side * (double(2 * y + 1) / double(h) - 1 - point[1]);
            const double want = gain[level] * exp(-(dx * dx + dy * dy) / (2 * sigma[level] * sigma[level]));
            expect_near("gaussian_splat", value(out.data[place(call.maps, image, level * landmarks + k, y, x)]), want,
                        near);
          }
}

// Both operators of maps (n, c, 2 h + odd, 2 w + odd), in arrays that end where the maps do.
template <class S>
void check_resampling(Dtype dtype, int64_t n, int64_t c, int64_t h, int64_t w, int64_t odd, bool last, double near) {
  const int64_t height = 2 * h + odd, width = 2 * w + odd;
  Array<S> x(size_t(n * c * height * width)), grad_x(size_t(n * c * height * width)), out(size_t(n * c * h * w));
  Array<S> grad(size_t(n * c * h * w));
  for (int64_t i = 0; i < n * c * height * width; ++i) assign(x.data[i], uniform());
  for (int64_t i = 0; i < n * c * h * w; ++i) assign(grad.data[i], uniform());
  const HalvedMaps maps{dtype, last, n, c, height, width};
  baseline::kernels.max_pool_2x2({maps, x.data, out.data});
  baseline::kernels.max_pool_2x2_backward({maps, x.data, grad.data, grad_x.data});
  const Maps larger = maps_of(x.data, dtype, n, c, height, width, last);
  const Maps halved = maps_of(out.data, dtype, n, c, h, w, last);
  const auto each = [&](const std::function<void(int64_t, const int64_t*)>& visit) {
    for (int64_t i = 0; i < n; ++i)
      for (int64_t k = 0; k < c; ++k)
        for (int64_t y = 0; y < h; ++y)
          for (int64_t z = 0; z < w; ++z) {
            int64_t window[4];
            for (int j = 0; j < 4; ++j) window[j] = place(larger, i, k, 2 * y + j / 2, 2 * z + j % 2);
            visit(place(halved, i, k, y, z), window);
          }
  };
  std::vector<double> wanted(size_t(n * c * height * width));
  each([&](int64_t at, const int64_t* window) {
    int64_t most = window[0];
    for (int j = 1; j < 4; ++j)
      if (value(x.data[window[j]]) > value(x.data[most])) most = window[j];
    expect_near("max_pool_2x2", value(out.data[at]), value(x.data[most]), 0);
    wanted[size_t(most)] = value(grad.data[at]);
  });
  for (size_t i = 0; i < wanted.size(); ++i) expect_near("max_pool_2x2_backward", value(grad_x.data[i]), wanted[i], 0);
  if (odd) return;
  Array<S> sum(size_t(n * c * height * width));
  baseline::kernels.upsample_add({maps, grad.data, x.data, sum.data});
  baseline::kernels.upsample_add_backward({maps, x.data, out.data});
  each([&](int64_t at, const int64_t* window) {
    double total = 0;
    for (int j = 0; j < 4; ++j) {
      total += value(x.data[window[j]]);
      expect_near("upsample_add", value(sum.data[window[j]]), value(x.data[window[j]]) + value(grad.data[at]), near);
    }
    expect_near("upsample_add_backward", value(out.data[at]), total, 4 * near);
  });
}

// What any call of the norm has: maps (n, c, h, w), parameters, statistics, gradients; the result has `results` values.
template <class S, class A>
struct NormCall {
  Array<S> x, out, grad, grad_x;
  Array<A> weight, bias, mean, rstd, variance, grad_weight, grad_bias;
  BatchNormBackward call{};  // of which `forward` is the forward call
  std::vector<char> workspace;

  NormCall(Dtype dtype, int64_t n, int64_t c, int64_t h, int64_t w, bool last, size_t results)
      : x(size_t(n * c * h * w)),
        out(results),
        grad(results),
        grad_x(size_t(n * c * h * w)),
        weight(size_t(c)),
        bias(size_t(c)),
        mean(size_t(c)),
        rstd(size_t(c)),
        variance(size_t(c)),
        grad_weight(size_t(c)),
        grad_bias(size_t(c)) {
    for (int64_t i = 0; i < n * c * h * w; ++i) assign(x.data[i], uniform());
    for (size_t i = 0; i < results; ++i) assign(grad.data[i], uniform());
    for (int64_t k = 0; k < c; ++k) weight.data[k] = A(1.2 + uniform()), bias.data[k] = A(uniform());
    BatchNorm& f = call.forward;
    f.x = x.data, f.dtype = dtype, f.interleaved = last && c > 1;
    f.images = n, f.channels = c, f.height = h, f.width = w;
    f.eps = 1e-3, f.slope = 0.2, f.weight = weight.data, f.bias = bias.data;
    f.mean = mean.data, f.rstd = rstd.data, f.variance = variance.data, f.out = out.data;
    call.grad = grad.data, call.total = call.grad_x = grad_x.data;
    call.grad_weight = grad_weight.data, call.grad_bias = grad_bias.data;
  }
  // Forward; then what it alone is given is taken away, and backward.
  void run() {
    BatchNorm& f = call.forward;
    workspace.resize(size_t(batch_norm_workspace(f)));
    f.workspace = workspace.data();
    baseline::kernels.batch_norm_leaky_relu(f);
    f.low = nullptr, f.pooled = nullptr;
    baseline::kernels.batch_norm_leaky_relu_backward(call);
  }
  double scale(int64_t k) const { return double(weight.data[k]) * double(rstd.data[k]); }
};

// The norm with windows of 2 x 2 pixels: maps (n, c, 2 h, 2 w), whose result gets the lower maps and whose maxima are
// taken, and the gradients of both. Arrays end where the maps do.
template <class S, class A>
void check_norm(Dtype dtype, int64_t n, int64_t c, int64_t h, int64_t w, bool last, double near) {
  const size_t quarter = size_t(n * c * h * w);
  NormCall<S, A> norm(dtype, n, c, 2 * h, 2 * w, last, 4 * quarter);
  auto& [x, out, grad, grad_x, weight, bias, mean, rstd, variance, grad_weight, grad_bias, call, workspace] = norm;
  Array<S> low(quarter), pooled(quarter), grad_pooled(quarter), grad_low(quarter);
  for (size_t i = 0; i < quarter; ++i) assign(low.data[i], uniform()), assign(grad_pooled.data[i], uniform());
  call.forward.in_windows = true, call.forward.low = low.data, call.forward.pooled = pooled.data;
  call.grad_pooled = grad_pooled.data, call.grad_low = grad_low.data;
  norm.run();
  const Maps larger = maps_of(x.data, dtype, n, c, 2 * h, 2 * w, last),
             halved = maps_of(low.data, dtype, n, c, h, w, last);
  for (int64_t k = 0; k < c; ++k) {
    const double scale = norm.scale(k), about = double(mean.data[k]);
    double sum = 0, along = 0;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t y = 0; y < h; ++y)
        for (int64_t z = 0; z < w; ++z) {
          const int64_t at = place(halved, i, k, y, z);
          int64_t window[4], most = place(larger, i, k, 2 * y, 2 * z);
          double total = 0;
          for (int j = 0; j < 4; ++j) {
            window[j] = place(larger, i, k, 2 * y + j / 2, 2 * z + j % 2);
            if (value(out.data[window[j]]) > value(out.data[most])) most = window[j];
          }
          for (int64_t pixel : window) {
            const double moved = value(x.data[pixel]) - about, normal = moved * scale + double(bias.data[k]);
            const double activated = normal > 0 ? normal : 0.2 * normal;
            expect_near("norm with low", value(out.data[pixel]), activated + value(low.data[at]), 4 * near);
            const double upstream = value(grad.data[pixel]) + (pixel == most ? value(grad_pooled.data[at]) : 0.0);
            const double below = normal > 0 ? upstream : 0.2 * upstream;
            total += upstream, sum += below, along += below * moved;
          }
          expect_near("norm, pooled", value(pooled.data[at]), value(out.data[most]), 0);
          expect_near("norm, gradient of low", value(grad_low.data[at]), total, 8 * near);
        }
    const double count = double(n * 4 * h * w);
    expect_near("norm, gradient of bias", double(grad_bias.data[k]), sum, near * count);
    expect_near("norm, gradient of weight", double(grad_weight.data[k]), along * double(rstd.data[k]),
                8 * near * count);
  }
}

// The norm of maps (n, c, h, w) whose result has each pixel four times, and its gradients.
template <class S, class A>
void check_upsampled_norm(Dtype dtype, int64_t n, int64_t c, int64_t h, int64_t w, bool last, double near) {
  NormCall<S, A> norm(dtype, n, c, h, w, last, size_t(n * c * 4 * h * w));
  auto& [x, out, grad, grad_x, weight, bias, mean, rstd, variance, grad_weight, grad_bias, call, workspace] = norm;
  call.forward.upsampled = true;
  norm.run();
  const Maps larger = maps_of(out.data, dtype, n, c, 2 * h, 2 * w, last),
             own = maps_of(x.data, dtype, n, c, h, w, last);
  for (int64_t k = 0; k < c; ++k) {
    const double scale = norm.scale(k), about = double(mean.data[k]);
    double sum = 0, along = 0;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t y = 0; y < h; ++y)
        for (int64_t z = 0; z < w; ++z) {
          const double moved = value(x.data[place(own, i, k, y, z)]) - about;
          const double normal = moved * scale + double(bias.data[k]);
          double upstream = 0;
          for (int j = 0; j < 4; ++j) {
            const int64_t pixel = place(larger, i, k, 2 * y + j / 2, 2 * z + j % 2);
            expect_near("norm, upsampled", value(out.data[pixel]), normal > 0 ? normal : 0.2 * normal, 4 * near);
            upstream += value(grad.data[pixel]);
          }
          const double below = normal > 0 ? upstream : 0.2 * upstream;
          sum += below, along += below * moved;
        }
    const double count = double(n * h * w), deviation = double(rstd.data[k]);
    expect_near("norm, upsampled, gradient of bias", double(grad_bias.data[k]), sum, 4 * near * count);
    expect_near("norm, upsampled, gradient of weight", double(grad_weight.data[k]), along * deviation,
                32 * near * count);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t y = 0; y < h; ++y)
        for (int64_t z = 0; z < w; ++z) {
          const double moved = value(x.data[place(own, i, k, y, z)]) - about;
          double upstream = 0;
          for (int j = 0; j < 4; ++j) upstream += value(grad.data[place(larger, i, k, 2 * y + j / 2, 2 * z + j % 2)]);
          const double below = moved * scale + double(bias.data[k]) > 0 ? upstream : 0.2 * upstream;
          const double expected = scale * (below - sum / count - moved * deviation * deviation * along / count);
          expect_near("norm, upsampled, gradient", value(grad_x.data[place(own, i, k, y, z)]), expected,
                      64 * near * (1 + deviation));
        }
  }
}

}  // namespace
}  // namespace lmdis

int main() {
  using namespace lmdis;
  const int64_t sizes[][2] = {{1, 1}, {1, 7}, {33, 17}, {9, 130}, {67, 70}};
  for (const auto& size : sizes)
    for (const bool last : {false, true}) {
      const int64_t h = size[0], w = size[1];
      check_moments<float, float>(Dtype::float32, 2, 5, h, w, last, 2e-5);
      check_moments<double, double>(Dtype::float64, 1, 3, h, w, last, 1e-7);
      check_moments<uint16_t, float>(Dtype::bfloat16, 1, 18, h, w, last, 2e-2);
      check_moments<Half, float>(Dtype::float16, 1, 2, h, w, last, 5e-3);
      for (const int64_t channels : {2, 19}) {
        if (h * w > 1000 && channels > 2) continue;
        check_resampling<float>(Dtype::float32, 2, channels, h, w, 0, last, 2e-7);
        check_resampling<double>(Dtype::float64, 1, channels, h, w, 1, last, 1e-15);
        check_resampling<uint16_t>(Dtype::bfloat16, 2, channels, h, w, 1, last, 1e-2);
        check_resampling<Half>(Dtype::float16, 1, channels, h, w, 0, last, 1e-3);
        check_norm<float, float>(Dtype::float32, 2, channels, h, w, last, 1e-6);
        check_norm<double, double>(Dtype::float64, 3, channels, h, w, last, 1e-14);
        check_norm<uint16_t, float>(Dtype::bfloat16, 1, channels, h, w, last, 2e-2);
        check_upsampled_norm<float, float>(Dtype::float32, 2, channels, h, w, last, 1e-6);
        check_upsampled_norm<double, double>(Dtype::float64, 3, channels, h, w, last, 1e-14);
        check_upsampled_norm<uint16_t, float>(Dtype::bfloat16, 2, channels, h, w, last, 2e-2);
      }
      check_splat<float, float>(Dtype::float32, 2, 3, h, w, 2e-6);
      check_splat<double, double>(Dtype::float64, 1, 3, h, w, 1e-12);
      check_splat<uint16_t, float>(Dtype::bfloat16, 1, 3, h, w, 1e-2);
      check_splat<Half, float>(Dtype::float16, 1, 3, h, w, 2e-3);
    }
  if (failures) return printf("%d differences\n", failures), 1;
  return puts("equal"), 0;
}
