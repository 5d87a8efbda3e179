// A block's own memory: arrays whose every read and write is checked and recorded.
#pragma once

#include <string.h>

#include <type_traits>
#include <utility>

#include "blocks.h"

namespace gpu_emulation {

constexpr size_t shared_bytes = 48 * 1024;  // what a launch gets without asking for more

struct SharedArray {
  const char* name = nullptr;
  uint64_t block = 0;  // whose storage this is
  size_t count = 0;
  char* data = nullptr;
  Shadow* shadow = nullptr;  // one an element
};

struct SharedMemory {
  alignas(16) char bytes[shared_bytes];
  Shadow shadow[shared_bytes];
  size_t used = 0, shadows = 0, dynamic = 0;
  uint64_t block = 0;
  SharedArray dynamic_array;
};
inline SharedMemory shared_memory;

// Sets the time back before it overflows; shadows of global memory have to be new ones then.
inline void restart_time() {
  if (now.time < 1u << 30) return;
  const uint64_t blocks = now.blocks;
  now = Now();
  now.blocks = blocks;
  block.warps.clear();
  std::fill(std::begin(shared_memory.shadow), std::end(shared_memory.shadow), Shadow());
}

// Gives an array of this block its place.
inline void place(SharedArray& array, const char* name, size_t count, size_t element) {
  SharedMemory& memory = shared_memory;
  if (memory.block != now.blocks) {
    memory.block = now.blocks;
    memory.used = memory.dynamic;  // the dynamic array comes first
    memory.shadows = memory.dynamic;
  }
  const bool dynamic = &array == &memory.dynamic_array;
  const size_t first = dynamic ? 0 : (memory.used + 15) / 16 * 16;
  if (!dynamic && first + count * element > shared_bytes)
    fail(kind::limit, std::string(name) + " brings shared memory to " + std::to_string(first + count * element) +
                          " bytes, of which a block has " + std::to_string(shared_bytes));
  array = {name, now.blocks, count, memory.bytes + first, memory.shadow + (dynamic ? 0 : memory.shadows)};
  if (dynamic) return;
  memory.used = first + count * element;
  memory.shadows += count;
}

[[noreturn, gnu::cold, gnu::noinline]] inline void fail_shared_bounds(const SharedArray& array, size_t index,
                                                                      Access access) {
  fail(kind::out_of_bounds, std::string(words(access)) + " " + array.name + "[" + std::to_string(ptrdiff_t(index)) +
                                "] of " + std::to_string(array.count) + " elements");
}
[[noreturn, gnu::cold, gnu::noinline]] inline void fail_shared_written(const SharedArray& array, size_t index,
                                                                       Access access) {
  fail(kind::never_written, std::string(words(access)) + " " + array.name + "[" + std::to_string(index) +
                                "], which this block has not written");
}
[[noreturn, gnu::cold, gnu::noinline]] inline void fail_shared_race(const SharedArray& array, size_t index,
                                                                    Access access, Access with) {
  fail_race(array.shadow[index], access, with, Conflict::thread,
            std::string(array.name) + "[" + std::to_string(index) + "]");
}

// Checks and records an access to an element.
template <Access access>
[[gnu::noinline]] inline void touch(const SharedArray& array, size_t index) {
  if (index >= array.count) fail_shared_bounds(array, index, access);
  Shadow& shadow = array.shadow[index];
  if (shadow.written < now.block) {
    if (access != Access::write) fail_shared_written(array, index, access);
  }
  Access with;
  if (record<access, false>(shadow, with) != Conflict::none) fail_shared_race(array, index, access, with);
}

// What array[index] is: read where a value is wanted, written where one is assigned. It is no value itself, so that
// `auto x = array[i]`, which would read later, does not compile where x is used.
template <class T>
class SharedElement {
  using Value = std::remove_const_t<T>;

 public:
  SharedElement(const SharedArray& array, size_t index) : array_(array), index_(index) {}
  SharedElement(const SharedElement&) = delete;

  operator Value() && { return get(); }
  Value operator=(const Value& value) && {
    set(value);
    return value;
  }
  Value operator=(SharedElement&& other) && {
    const Value value = other.get();
    set(value);
    return value;
  }
  template <class U>
  Value operator+=(U&& other) && {
    return update([&](Value& value) { value += std::forward<U>(other); });
  }
  template <class U>
  Value operator-=(U&& other) && {
    return update([&](Value& value) { value -= std::forward<U>(other); });
  }
  template <class U>
  Value operator*=(U&& other) && {
    return update([&](Value& value) { value *= std::forward<U>(other); });
  }
  template <class U>
  Value operator/=(U&& other) && {
    return update([&](Value& value) { value /= std::forward<U>(other); });
  }
  template <class U>
  Value operator|=(U&& other) && {
    return update([&](Value& value) { value |= std::forward<U>(other); });
  }
  template <class U>
  Value operator&=(U&& other) && {
    return update([&](Value& value) { value &= std::forward<U>(other); });
  }
  template <class U>
  Value operator^=(U&& other) && {
    return update([&](Value& value) { value ^= std::forward<U>(other); });
  }
  Value operator++() && {
    return update([](Value& value) { ++value; });
  }
  Value operator--() && {
    return update([](Value& value) { --value; });
  }

 private:
  const SharedArray& array_;
  size_t index_;

  Value get() const {
    touch<Access::read>(array_, index_);
    Value value;
    memcpy(&value, array_.data + index_ * sizeof(T), sizeof(T));
    return value;
  }
  void set(const Value& value) const {
    static_assert(!std::is_const_v<T>, "an array of constants is not written");
    touch<Access::write>(array_, index_);
    memcpy(array_.data + index_ * sizeof(T), &value, sizeof(T));
  }
  template <class Change>
  Value update(Change change) const {
    Value value = get();
    change(value);
    set(value);
    return value;
  }
};

template <class T>
class SharedPointer {
  using Value = std::remove_const_t<T>;
  static_assert(std::is_trivially_copyable_v<Value>);

 public:
  SharedPointer() = default;
  SharedPointer(const SharedArray& array, ptrdiff_t index) : array_(&array), index_(index) {}
  operator SharedPointer<const T>() const requires(!std::is_const_v<T>) { return {*array_, index_}; }

  SharedElement<T> operator[](ptrdiff_t i) const { return {*array_, size_t(index_ + i)}; }
  SharedElement<T> operator*() const { return (*this)[0]; }
  SharedPointer operator+(ptrdiff_t by) const { return {*array_, index_ + by}; }
  SharedPointer operator-(ptrdiff_t by) const { return {*array_, index_ - by}; }
  ptrdiff_t operator-(const SharedPointer& other) const { return index_ - other.index_; }
  SharedPointer& operator+=(ptrdiff_t by) {
    index_ += by;
    return *this;
  }
  SharedPointer& operator-=(ptrdiff_t by) {
    index_ -= by;
    return *this;
  }
  SharedPointer& operator++() { return *this += 1; }
  SharedPointer& operator--() { return *this -= 1; }

  // The place of `count` elements that are accessed at once, from a place that is a multiple of `count`.
  template <Access access, int count>
  char* together() const {
    for (int i = 0; i < count; ++i) touch<access>(*array_, size_t(index_ + i));
    const size_t first = size_t(index_) * sizeof(T);
    if (first % (count * sizeof(T)))
      fail(kind::misaligned, std::string(words(access)) + " " + std::to_string(count * sizeof(T)) +
                                 " bytes at once from byte " + std::to_string(first) + " of " + array_->name);
    return array_->data + first;
  }
  template <class Change>
  void update_atomically(Change change) const {
    touch<Access::atomic>(*array_, size_t(index_));
    char* const at = array_->data + size_t(index_) * sizeof(T);
    Value value;
    memcpy(&value, at, sizeof(T));
    change(value);
    memcpy(at, &value, sizeof(T));
  }

 private:
  const SharedArray* array_ = nullptr;
  ptrdiff_t index_ = 0;
};

template <class T, size_t count>
inline SharedPointer<T> open_shared(SharedArray& array, const char* name) {
  static_assert(alignof(T) <= 16);
  if (array.block != now.blocks) place(array, name, count, sizeof(T));
  return {array, 0};
}
template <class T>
inline SharedPointer<T> open_dynamic_shared(const char* name) {
  static_assert(alignof(T) <= 16);
  SharedArray& array = shared_memory.dynamic_array;
  const size_t count = shared_memory.dynamic / sizeof(T);
  if (array.block != now.blocks) place(array, name, count, sizeof(T));
  if (array.count != count)
    fail(kind::limit, std::string(name) + " and " + array.name + " are dynamic arrays of elements of unlike sizes");
  return {array, 0};
}

}  // namespace gpu_emulation

#define LM_SHARED(T, name, count)                       \
  static ::gpu_emulation::SharedArray lm_shared_##name; \
  const ::gpu_emulation::SharedPointer<T> name = ::gpu_emulation::open_shared<T, (count)>(lm_shared_##name, #name)
#define LM_DYNAMIC_SHARED(T, name) \
  const ::gpu_emulation::SharedPointer<T> name = ::gpu_emulation::open_dynamic_shared<T>(#name)
#define LM_SHARED_POINTER(T) ::gpu_emulation::SharedPointer<T>
