#include "core/communicator.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/check.h"

namespace itemloom {
namespace {

// What one block of a tree sum occupies stays in the first-level cache, with the partial sums on the stack.
constexpr int64_t kSumBlock = 1024;

template <class Number>
void sum_block(const Number* const* sources, int count, int64_t begin, int64_t size, Number* out) {
  if (count == 1) {
    std::memcpy(out, sources[0] + begin, static_cast<size_t>(size) * sizeof(Number));
    return;
  }
  const int left = static_cast<int>(std::bit_floor(static_cast<unsigned>(count - 1)));
  Number right[kSumBlock];
  sum_block(sources, left, begin, size, out);
  sum_block(sources + left, count - left, begin, size, right);
  for (int64_t i = 0; i < size; ++i) out[i] += right[i];
}

template <class Number>
void sum_all(const Number* const* sources, int count, int64_t size, Number* out) {
  // Two ranks, the commonest case, need no partial sums.
  if (count == 2) {
    for (int64_t i = 0; i < size; ++i) out[i] = sources[0][i] + sources[1][i];
    return;
  }
  Number block[kSumBlock];
  for (int64_t begin = 0; begin < size; begin += kSumBlock) {
    const int64_t here = std::min(kSumBlock, size - begin);
    sum_block(sources, count, begin, here, block);
    std::memcpy(out + begin, block, static_cast<size_t>(here) * sizeof(Number));
  }
}

class SelfCommunicator : public Communicator {
 public:
  SelfCommunicator() : Communicator(0, 1) {}
  std::unique_ptr<ExchangeBuffer> make_exchange_buffer(int64_t floats) override {
    return std::make_unique<OwnBuffer>(DeviceKind::kCpu, floats);
  }
  std::string transport() const override { return "one process"; }

 private:
  void gather_bytes(const void* mine, int64_t bytes, void* all) override {
    if (bytes > 0) std::memcpy(all, mine, static_cast<size_t>(bytes));
  }
  void broadcast_bytes(void*, int64_t, int) override {}
};

}  // namespace

FlatRange share_of(FlatRange range, int rank, int size) {
  const int64_t blocks = block_count(range.size(), kShareBlock);
  auto place = [&](int64_t number) { return std::min(range.end, range.begin + blocks * number / size * kShareBlock); };
  return {place(rank), place(rank + 1)};
}

void tree_sum(const float* const* sources, int count, int64_t size, float* out) {
  sum_all(sources, count, size, out);
}

void tree_sum(const double* const* sources, int count, int64_t size, double* out) {
  sum_all(sources, count, size, out);
}

void ExchangeBuffer::reduce_scatter_rounded(Vector<Bf16>) {
  fail("CPUs exchange numbers in fp32 only");
}

void ExchangeBuffer::all_reduce_rounded(Vector<Bf16>) {
  fail("CPUs exchange numbers in fp32 only");
}

void Communicator::all_gather(const void* mine, int64_t bytes, void* all) {
  status_->collectives.fetch_add(1, std::memory_order_relaxed);
  gather_bytes(mine, bytes, all);
  heartbeat();
}

void Communicator::broadcast(void* data, int64_t bytes, int root) {
  status_->collectives.fetch_add(1, std::memory_order_relaxed);
  broadcast_bytes(data, bytes, root);
  heartbeat();
}

void Communicator::all_reduce_sum(Vector<double> values) {
  if (size_ == 1) return;
  std::vector<double> all(static_cast<size_t>(values.size() * size_));
  all_gather(values.data(), values.size() * static_cast<int64_t>(sizeof(double)), all.data());
  std::vector<const double*> sources;
  for (int rank = 0; rank < size_; ++rank) sources.push_back(all.data() + rank * values.size());
  tree_sum(sources.data(), size_, values.size(), values.data());
}

void Communicator::all_reduce_sum(Vector<int64_t> values) {
  if (size_ == 1) return;
  std::vector<int64_t> all(static_cast<size_t>(values.size() * size_));
  all_gather(values.data(), values.size() * static_cast<int64_t>(sizeof(int64_t)), all.data());
  for (int64_t i = 0; i < values.size(); ++i) {
    values[i] = 0;
    for (int rank = 0; rank < size_; ++rank) values[i] += all[static_cast<size_t>(rank * values.size() + i)];
  }
}

std::vector<std::string> Communicator::all_gather_text(const std::string& mine) {
  const int64_t bytes = static_cast<int64_t>(mine.size());
  std::vector<int64_t> sizes(static_cast<size_t>(size_));
  all_gather(&bytes, sizeof(bytes), sizes.data());
  const int64_t longest = *std::max_element(sizes.begin(), sizes.end());
  std::string padded = mine;
  padded.resize(static_cast<size_t>(longest));
  std::string all(static_cast<size_t>(longest * size_), '\0');
  all_gather(padded.data(), longest, all.data());
  std::vector<std::string> texts;
  for (int rank = 0; rank < size_; ++rank) {
    texts.push_back(all.substr(static_cast<size_t>(rank * longest), static_cast<size_t>(sizes[rank])));
  }
  return texts;
}

void gather_by_sum(Device& device, Communicator& communicator, Vector<double> values) {
  if (device.cuda()) return cuda_backend::all_reduce_sum(*device.cuda(), communicator, values);
  communicator.all_reduce_sum(values);
}

std::unique_ptr<Communicator> make_self_communicator() {
  return std::make_unique<SelfCommunicator>();
}

void Communicator::end_all_ranks(const std::string& error) {
  if (end_) end_(error);
  throw Error(error);
}

std::optional<Disagreement> find_disagreement(Communicator& communicator, const std::string& mine) {
  const std::vector<std::string> all = communicator.all_gather_text(mine);
  for (size_t rank = 1; rank < all.size(); ++rank) {
    if (all[rank] != all.front()) return Disagreement{static_cast<int>(rank), all.front(), all[rank]};
  }
  return std::nullopt;
}

void together(Communicator& communicator, FunctionRef<void()> body) {
  if (communicator.size() == 1) {
    body();
    return;
  }
  std::string message;
  try {
    body();
  } catch (const std::bad_alloc&) {
    message = "out of memory";
  } catch (const std::exception& error) {
    message = error.what();
    if (message.empty()) message = "an error without a message";
  }
  const std::vector<std::string> messages = communicator.all_gather_text(message);
  const auto first = std::find_if(messages.begin(), messages.end(), [](const auto& one) { return !one.empty(); });
  if (first == messages.end()) return;
  const bool everywhere = std::all_of(messages.begin(), messages.end(), [&](const auto& one) { return one == *first; });
  const auto rank = first - messages.begin();
  throw SharedError(everywhere || rank == 0 ? *first : join_message("rank ", rank, ": ", *first));
}

}  // namespace itemloom
