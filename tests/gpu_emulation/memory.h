// What device.cuh names for global and shared memory, each access checked.
#pragma once

#include "global_memory.h"
#include "shared_memory.h"
#include "values.h"

namespace lmdis {

using gpu_emulation::Place;
using Stream = void*;

template <class T>
inline T load(const T* from, const Place& place = Place::current()) {
  return gpu_emulation::read_global<T>(from, place);
}
template <class T>
inline void store(T* to, std::type_identity_t<T> value, const Place& place = Place::current()) {
  gpu_emulation::write_global(to, value, place);
}
template <int N, class T>
inline Vector<T, N> load_vector(const T* from, const Place& place = Place::current()) {
  static_assert(sizeof(Vector<T, N>) <= 16);
  return gpu_emulation::read_global<Vector<T, N>>(from, place);
}
template <int N, class T>
inline void store_vector(T* to, const Vector<T, N>& value, const Place& place = Place::current()) {
  static_assert(sizeof(Vector<T, N>) <= 16);
  gpu_emulation::write_global(to, value, place);
}
inline void atomic_add(float* to, float value, const Place& place = Place::current()) {
  gpu_emulation::update_global(to, place, [=](float& sum) { sum += value; });
}
inline void atomic_add(unsigned long long* to, unsigned long long value, const Place& place = Place::current()) {
  gpu_emulation::update_global(to, place, [=](unsigned long long& sum) { sum += value; });
}
inline void atomic_max(unsigned int* to, unsigned int value, const Place& place = Place::current()) {
  gpu_emulation::update_global(to, place, [=](unsigned& largest) { largest = value > largest ? value : largest; });
}
inline void atomic_max(long long* to, long long value, const Place& place = Place::current()) {
  gpu_emulation::update_global(to, place, [=](long long& largest) { largest = value > largest ? value : largest; });
}

template <int N, class T>
inline Vector<std::remove_const_t<T>, N> load_shared(gpu_emulation::SharedPointer<T> from) {
  static_assert(sizeof(T) * N <= 16);
  Vector<std::remove_const_t<T>, N> value;
  memcpy(&value, from.template together<gpu_emulation::Access::read, N>(), sizeof(value));
  return value;
}
template <int N, class T>
inline void store_shared(gpu_emulation::SharedPointer<T> to, const Vector<T, N>& value) {
  static_assert(sizeof(T) * N <= 16);
  memcpy(to.template together<gpu_emulation::Access::write, N>(), &value, sizeof(value));
}
inline void atomic_add(gpu_emulation::SharedPointer<float> to, float value) {
  to.update_atomically([=](float& sum) { sum += value; });
}
inline void atomic_add(gpu_emulation::SharedPointer<unsigned long long> to, unsigned long long value) {
  to.update_atomically([=](unsigned long long& sum) { sum += value; });
}
inline void atomic_max(gpu_emulation::SharedPointer<unsigned> to, unsigned value) {
  to.update_atomically([=](unsigned& largest) { largest = value > largest ? value : largest; });
}

}  // namespace lmdis
