// Memory that launches share: buffers with names, at addresses that the processor itself cannot read, far apart from
// one another. Kernels reach them through load, store and the atomics.
#pragma once

#include <string.h>
#include <sys/mman.h>

#include <new>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "blocks.h"

namespace gpu_emulation {

enum class Role { input, output, in_place, workspace, zeros };

struct Buffer {
  std::string name;
  Role role = Role::workspace;
  uintptr_t address = 0;
  size_t bytes = 0;
  unsigned shift = 0;  // 1 << shift bytes have a shadow
  std::vector<char> data;
  std::vector<Shadow> shadow;

  // An access to less than a shadow stands for: each gets parts.
  void split(unsigned to) {
    std::vector<Shadow> parts(bytes >> to);
    for (size_t i = 0; i < parts.size(); ++i) parts[i] = shadow[i >> (shift - to)];
    shadow = std::move(parts);
    shift = to;
  }
};

class Buffers {
 public:
  Buffers() {
    if (current_) throw std::logic_error("the emulator runs one call at a time");
    reserve();
    buffers_.reserve(slots);
    current_ = this;
  }
  ~Buffers() { current_ = nullptr; }
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;
  static Buffers* current() { return current_; }

  // A buffer of so many bytes, all of which belong to it, as far as `alignment` says from a multiple of 16.
  Buffer& add(std::string name, Role role, size_t bytes, unsigned shift, unsigned misalignment = 0) {
    if (bytes > slot_bytes / 2) throw std::length_error(name + " is too large to be emulated");
    if (buffers_.size() == slots) throw std::length_error("too many buffers in one call");
    Buffer buffer;
    buffer.name = std::move(name);
    buffer.role = role;
    buffer.address = base_ + buffers_.size() * slot_bytes + slot_bytes / 4 + misalignment;
    buffer.bytes = bytes;
    buffer.shift = shift;
    buffer.data.assign(bytes, role == Role::zeros ? 0 : char(0xff));
    Shadow fresh;
    fresh.flags = belongs;
    fresh.written = role == Role::output || role == Role::workspace ? 0 : 1;
    buffer.shadow.assign(bytes >> shift, fresh);
    return buffers_.emplace_back(std::move(buffer));
  }

  // Checks and records an access; returns where the bytes are.
  template <Access access>
  [[gnu::noinline]] char* at(const void* pointer, size_t bytes, size_t alignment, const Place& place) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
    const size_t slot = (address - base_) / slot_bytes;
    if (slot >= buffers_.size()) fail_nowhere(access, bytes, place);
    Buffer& buffer = buffers_[slot];
    const size_t offset = address - buffer.address;
    if (offset >= buffer.bytes || bytes > buffer.bytes - offset)
      fail_at(kind::out_of_bounds, buffer, access, offset, bytes, place,
              ", which has " + std::to_string(buffer.bytes) + " bytes");
    if (address & (alignment - 1))
      fail_at(kind::misaligned, buffer, access, offset, bytes, place,
              ", an address that is no multiple of " + std::to_string(alignment));
    if (access != Access::read && buffer.role == Role::input)
      fail_at(kind::input_written, buffer, access, offset, bytes, place, ", an input");
    const size_t part = (offset | bytes) & -(offset | bytes);
    if (part >> buffer.shift == 0) buffer.split(__builtin_ctzll(part));
    for (size_t i = offset >> buffer.shift, end = (offset + bytes) >> buffer.shift; i < end; ++i) {
      Shadow& shadow = buffer.shadow[i];
      if (!(shadow.flags & belongs))
        fail_at(kind::out_of_bounds, buffer, access, i << buffer.shift, size_t(1) << buffer.shift, place,
                ", a gap between its elements");
      if (access != Access::write && shadow.written == 0)
        fail_at(kind::never_written, buffer, access, i << buffer.shift, size_t(1) << buffer.shift, place,
                ", which nobody has written");
      Access with;
      const Conflict found = record<access, true>(shadow, with);
      if (found != Conflict::none)
        fail_race(shadow, access, with, found,
                  piece(buffer, i << buffer.shift, size_t(1) << buffer.shift) + " (" + words(place) + ")");
    }
    return buffer.data.data() + offset;
  }

  void require_all_written() const {
    for (const Buffer& buffer : buffers_) {
      if (buffer.role != Role::output) continue;
      for (size_t i = 0; i < buffer.shadow.size(); ++i) {
        if ((buffer.shadow[i].flags & belongs) && buffer.shadow[i].written == 0)
          throw Error(kind::output_unwritten,
                      "no launch has written " + piece(buffer, i << buffer.shift, size_t(1) << buffer.shift));
      }
    }
  }

  static bool contains(uintptr_t address) { return address - base_ < slots * slot_bytes; }

 private:
  static constexpr size_t slots = 256, slot_bytes = size_t(1) << 26;
  static inline Buffers* current_ = nullptr;
  static inline uintptr_t base_ = 0;
  std::vector<Buffer> buffers_;

  static void reserve() {
    if (base_) return;
    void* const space =
        mmap(nullptr, (slots + 1) * slot_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (space == MAP_FAILED) throw std::bad_alloc();
    base_ = (reinterpret_cast<uintptr_t>(space) + slot_bytes - 1) / slot_bytes * slot_bytes;
  }
  static std::string piece(const Buffer& buffer, size_t offset, size_t bytes) {
    return std::to_string(bytes) + " bytes at byte " + std::to_string(ptrdiff_t(offset)) + " of " + buffer.name;
  }
  [[noreturn, gnu::cold, gnu::noinline]] static void fail_nowhere(Access access, size_t bytes, const Place& place) {
    fail(kind::out_of_bounds,
         std::string(words(access)) + " " + std::to_string(bytes) + " bytes where no buffer is (" + words(place) + ")");
  }
  [[noreturn, gnu::cold, gnu::noinline]] static void fail_at(const char* kind, const Buffer& buffer, Access access,
                                                             size_t offset, size_t bytes, const Place& place,
                                                             const std::string& why) {
    fail(kind, std::string(words(access)) + " " + piece(buffer, offset, bytes) + why + " (" + words(place) + ")");
  }
};

template <Access access>
inline char* global_memory(const void* pointer, size_t bytes, size_t alignment, const Place& place) {
  Buffers* const buffers = Buffers::current();
  if (buffers == nullptr) fail(kind::out_of_bounds, "touches global memory in a launch without buffers");
  return buffers->at<access>(pointer, bytes, alignment, place);
}
template <class T>
inline T read_global(const void* from, const Place& place) {
  T value;
  memcpy(&value, global_memory<Access::read>(from, sizeof(T), alignof(T), place), sizeof(T));
  return value;
}
template <class T>
inline void write_global(void* to, const T& value, const Place& place) {
  memcpy(global_memory<Access::write>(to, sizeof(T), alignof(T), place), &value, sizeof(T));
}
template <class T, class Change>
inline void update_global(T* to, const Place& place, Change change) {
  char* const at = global_memory<Access::atomic>(to, sizeof(T), alignof(T), place);
  T value;
  memcpy(&value, at, sizeof(T));
  change(value);
  memcpy(at, &value, sizeof(T));
}

}  // namespace gpu_emulation
