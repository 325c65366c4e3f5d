// One pool of worker threads for everything that is parallel on the CPU.
//
// A parallel region is a fixed list of tasks whose boundaries depend on the problem's shape alone, never on the number
// of threads; which thread runs a task is free. So results are the same bits for any number of threads as long as no
// two tasks write the same place (the house rule: reductions write one partial result a task, summed in task order).
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

namespace itemloom {

// A non-owning reference to a callable; valid as long as the callable is.
template <class Signature>
class FunctionRef;
template <class Result, class... Arguments>
class FunctionRef<Result(Arguments...)> {
 public:
  template <class Callable>
  requires(!std::is_same_v<std::remove_cvref_t<Callable>, FunctionRef>) FunctionRef(Callable&& callable)
      : object_(const_cast<void*>(static_cast<const void*>(&callable))),
        call_([](void* object, Arguments... arguments) -> Result {
          return (*static_cast<std::remove_reference_t<Callable>*>(object))(std::forward<Arguments>(arguments)...);
        }) {}
  Result operator()(Arguments... arguments) const { return call_(object_, std::forward<Arguments>(arguments)...); }

 private:
  void* object_;
  Result (*call_)(void*, Arguments...);
};

// Sets the number of threads (the caller's included) of the process's pool; at least 1. Not to be called from inside a
// parallel region. The default is the number of processors this process may run on.
// Idle workers spin for some tens of microseconds before they sleep (which saves a wake-up per kernel) only when the
// process has a processor a thread: on a machine without, spinning costs dearly.
void set_thread_count(int count);
int thread_count();

// Runs body(task) for every task in [0, count) and returns when all are done. Tasks are handed out in order from a
// contiguous range per thread, idle threads take from the others' ranges. An exception in a task is rethrown here
// once the others have ended. A call from inside a task runs its tasks one after the other on the calling thread.
void parallel_for(int64_t count, FunctionRef<void(int64_t)> body);

// As above; body also gets a thread number in [0, thread_count()), for per-thread scratch memory.
void parallel_for_with_thread(int64_t count, FunctionRef<void(int64_t task, int thread)> body);

// The number of blocks of `size` that cover `total`.
constexpr int64_t block_count(int64_t total, int64_t size) {
  return (total + size - 1) / size;
}

}  // namespace itemloom
