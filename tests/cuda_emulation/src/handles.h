// Handles that programs get: numbers that are never given twice, so that one used too late is noticed.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

namespace cuda_emulation {

template <class Object, class Handle>
class HandleTable {
 public:
  Handle add(std::shared_ptr<Object> object) {
    next_ += 16;
    const auto handle = reinterpret_cast<Handle>(next_);
    objects_[handle] = std::move(object);
    return handle;
  }
  // nullptr for a handle that was never given or was removed.
  std::shared_ptr<Object> find(Handle handle) const {
    const auto entry = objects_.find(handle);
    return entry == objects_.end() ? nullptr : entry->second;
  }
  bool remove(Handle handle) { return objects_.erase(handle) == 1; }

 private:
  std::map<Handle, std::shared_ptr<Object>> objects_;
  uintptr_t next_ = 0x1000;
};

// The same for threads that share no other lock.
template <class Object, class Handle>
class SharedHandleTable {
 public:
  Handle add(std::shared_ptr<Object> object) {
    const std::lock_guard lock(mutex_);
    return table_.add(std::move(object));
  }
  std::shared_ptr<Object> find(Handle handle) {
    const std::lock_guard lock(mutex_);
    return table_.find(handle);
  }
  bool remove(Handle handle) {
    const std::lock_guard lock(mutex_);
    return table_.remove(handle);
  }

 private:
  std::mutex mutex_;
  HandleTable<Object, Handle> table_;
};

}  // namespace cuda_emulation
