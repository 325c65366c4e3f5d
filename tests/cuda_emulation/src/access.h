// How translated code touches memory: every access is announced first, so that the engine can judge it.
#pragma once

#include <cstdint>
#include <cstring>

#include "check.h"
#include "floating.h"
#include "thread.h"

namespace cuda_emulation {

template <class T>
T load(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <class T>
void store(void* to, T value) {
  std::memcpy(to, &value, sizeof value);
}

[[noreturn]] void report_misaligned(const void* at, uint32_t bytes);
// Gives other threads of the block a chance to run: always where a thread polls, now and then elsewhere.
void yield_thread(ThreadContext& thread);
void yield_sometimes(ThreadContext& thread);

inline void require_alignment(const void* at, uint32_t bytes) {
  if (reinterpret_cast<uintptr_t>(at) & (bytes - 1)) [[unlikely]]
    report_misaligned(at, bytes);
}

inline void before_read(ThreadContext& thread, const void* at, uint32_t bytes) {
  require_alignment(at, bytes);
  if (checking) note_access(thread, at, bytes, Access::kRead);
}

inline void before_write(ThreadContext& thread, void* at, uint32_t bytes) {
  require_alignment(at, bytes);
  if (checking) note_access(thread, at, bytes, Access::kWrite);
}

// Strong accesses (.volatile, .relaxed, .acquire, .release) are what threads poll and publish with.
inline void before_strong_read(ThreadContext& thread, const void* at, uint32_t bytes) {
  require_alignment(at, bytes);
  yield_thread(thread);
  if (checking) note_access(thread, at, bytes, Access::kStrongRead);
}

inline void before_strong_write(ThreadContext& thread, void* at, uint32_t bytes) {
  require_alignment(at, bytes);
  if (checking) note_access(thread, at, bytes, Access::kStrongWrite);
}

inline void before_atomic(ThreadContext& thread, void* at, uint32_t bytes) {
  require_alignment(at, bytes);
  yield_sometimes(thread);
  if (checking) note_access(thread, at, bytes, Access::kAtomic);
}

// ---- Atomics: fibers change only where the engine lets them, so a plain update is atomic ----

template <class T, class Update>
T atomic_update(ThreadContext& thread, void* at, Update update) {
  before_atomic(thread, at, sizeof(T));
  const T old = load<T>(at);
  store<T>(at, update(old));
  return old;
}

template <class T>
T atomic_add(ThreadContext& thread, void* at, T value) {
  return atomic_update<T>(thread, at, [=](T old) {
    if constexpr (std::is_integral_v<T>) {
      using Unsigned = std::make_unsigned_t<T>;
      return static_cast<T>(static_cast<Unsigned>(old) + static_cast<Unsigned>(value));
    } else {
      return old + value;
    }
  });
}
template <class T>
T atomic_min(ThreadContext& thread, void* at, T value) {
  return atomic_update<T>(thread, at, [=](T old) { return value < old ? value : old; });
}
template <class T>
T atomic_max(ThreadContext& thread, void* at, T value) {
  return atomic_update<T>(thread, at, [=](T old) { return value > old ? value : old; });
}
template <class T>
T atomic_and(ThreadContext& thread, void* at, T value) {
  return atomic_update<T>(thread, at, [=](T old) { return old & value; });
}
template <class T>
T atomic_or(ThreadContext& thread, void* at, T value) {
  return atomic_update<T>(thread, at, [=](T old) { return old | value; });
}
template <class T>
T atomic_xor(ThreadContext& thread, void* at, T value) {
  return atomic_update<T>(thread, at, [=](T old) { return old ^ value; });
}
template <class T>
T atomic_exch(ThreadContext& thread, void* at, T value) {
  return atomic_update<T>(thread, at, [=](T) { return value; });
}
template <class T>
T atomic_cas(ThreadContext& thread, void* at, T expected, T value) {
  return atomic_update<T>(thread, at, [=](T old) { return old == expected ? value : old; });
}
template <class T>
T atomic_inc(ThreadContext& thread, void* at, T limit) {
  return atomic_update<T>(thread, at, [=](T old) { return old >= limit ? 0 : old + 1; });
}
template <class T>
T atomic_dec(ThreadContext& thread, void* at, T limit) {
  return atomic_update<T>(thread, at, [=](T old) { return old == 0 || old > limit ? limit : old - 1; });
}
// On one f16 (16 bits) or a pair (32 bits).
template <class Raw>
Raw atomic_half_add(ThreadContext& thread, void* at, Raw value) {
  constexpr int kLanes = sizeof(Raw) / sizeof(uint16_t);
  return atomic_update<Raw>(
      thread, at, [=](Raw old) { return static_cast<Raw>(half_apply<Half, kLanes, HalfOp::k_add>(old, value)); });
}

// ---- Asynchronous copies: they land as late as the program allows ----

void copy_async(ThreadContext& thread, unsigned char* target, const unsigned char* source, uint32_t bytes,
                uint32_t source_bytes);
void copy_async_commit(ThreadContext& thread);
void copy_async_wait(ThreadContext& thread, uint32_t groups_that_may_stay);

// ---- State spaces of a generic address ----

bool is_in_global(const ThreadContext& thread, uint64_t address);
bool is_in_shared(const ThreadContext& thread, uint64_t address);
bool is_in_local(const ThreadContext& thread, uint64_t address);

}  // namespace cuda_emulation
