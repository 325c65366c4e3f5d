// Handles that programs get: numbers that are never given twice, so that one used too late is noticed.
#pragma once

#include <cstdint>
#include <map>
#include <memory>

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

}  // namespace cuda_emulation
