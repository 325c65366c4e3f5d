#include "core/cuda/nccl_exchange.h"

#include <exception>

#include "core/check.h"
#include "core/cuda/backend.h"

namespace itemloom {
namespace {

ncclDataType_t type_of(const float*) {
  return ncclFloat;
}

ncclDataType_t type_of(const Bf16*) {
  return ncclBfloat16;
}

std::string failure(ncclResult_t status, const char* what) {
  return join_message("NCCL failed while ", what, ": ", ncclGetErrorString(status), " (", ncclGetLastError(nullptr),
                      "); NCCL_DEBUG=INFO says more");
}

// Before the ranks have met.
void nccl_check(ncclResult_t status, const char* what) {
  if (status != ncclSuccess) throw Error(failure(status, what));
}

class NcclBuffer : public OwnBuffer {
 public:
  NcclBuffer(CudaContext& context, Communicator& communicator, std::shared_ptr<NcclGroup> group, int64_t floats)
      : OwnBuffer(DeviceKind::kCuda, floats),
        context_(context),
        communicator_(communicator),
        group_(std::move(group)) {}

  void reduce_scatter_sum(FlatRange range) override { reduce_shares(numbers(range)); }
  void all_reduce_sum(FlatRange range) override { reduce_all(numbers(range)); }
  void reduce_scatter_rounded(Vector<Bf16> rounded) override { reduce_shares(rounded); }
  void all_reduce_rounded(Vector<Bf16> rounded) override { reduce_all(rounded); }

  void all_gather(FlatRange range) override {
    for_each_share(numbers(range), "gathering parameters", [&](Vector<float> share, int owner) {
      return ncclBroadcast(share.data(), share.data(), static_cast<size_t>(share.size()), ncclFloat, owner,
                           group_->ranks(), stream());
    });
  }

  void begin_after_device() override { group_->wait_for_context(); }
  void device_continues_after() override { group_->context_waits(); }
  void check_health() override { group_->check_health(); }
  CUstream_st* stream() override {
    context_.use_on_this_thread();
    return group_->stream();
  }

 private:
  Vector<float> numbers(FlatRange range) const { return values().slice(range.begin, range.size()); }

  // Shares are whole blocks, so they differ in size: one reduction a share, all of them one launch.
  template <class Number>
  void reduce_shares(Vector<Number> numbers) {
    for_each_share(numbers, "reducing gradients", [&](Vector<Number> share, int owner) {
      return ncclReduce(share.data(), share.data(), static_cast<size_t>(share.size()), type_of(share.data()), ncclSum,
                        owner, group_->ranks(), stream());
    });
  }

  template <class Number>
  void reduce_all(Vector<Number> numbers) {
    group_->check(ncclAllReduce(numbers.data(), numbers.data(), static_cast<size_t>(numbers.size()),
                                type_of(numbers.data()), ncclSum, group_->ranks(), stream()),
                  "reducing gradients");
  }

  template <class Number, class Collective>
  void for_each_share(Vector<Number> numbers, const char* what, Collective collective) {
    group_->check(ncclGroupStart(), what);
    for (int owner = 0; owner < communicator_.size(); ++owner) {
      const FlatRange share = share_of({0, numbers.size()}, owner, communicator_.size());
      if (share.size() > 0) group_->check(collective(numbers.slice(share.begin, share.size()), owner), what);
    }
    group_->check(ncclGroupEnd(), what);
  }

  CudaContext& context_;
  Communicator& communicator_;
  std::shared_ptr<NcclGroup> group_;
};

}  // namespace

NcclGroup::NcclGroup(CudaContext& context, Communicator& communicator)
    : context_(context), communicator_(communicator), exceptions_(std::uncaught_exceptions()) {
  ncclUniqueId id;
  if (communicator.is_first()) nccl_check(ncclGetUniqueId(&id), "making an id");
  communicator.broadcast(&id, sizeof id);
  context.use_on_this_thread();
  nccl_check(ncclCommInitRank(&ranks_, communicator.size(), id, communicator.rank()), "meeting the other ranks");
  cuda_check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
  for (cudaEvent_t* event : {&context_done_, &group_done_}) {
    cuda_check(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "making an event");
  }
}

NcclGroup::~NcclGroup() {
  // Ending a communicator, by an abort too, waits for the other ranks of the host. One that unwinds because of an error
  // leaves it to the end of the process: the others may never come, and the error is still to be said.
  if (std::uncaught_exceptions() > exceptions_) return;
  ncclCommDestroy(ranks_);
  cudaEventDestroy(context_done_);
  cudaEventDestroy(group_done_);
  cudaStreamDestroy(stream_);
}

void NcclGroup::wait_for_context() {
  cuda_check(cudaEventRecord(context_done_, context_.stream()), "marking a place in a stream");
  cuda_check(cudaStreamWaitEvent(stream_, context_done_, 0), "ordering streams");
}

void NcclGroup::context_waits() {
  cuda_check(cudaEventRecord(group_done_, stream_), "marking a place in a stream");
  cuda_check(cudaStreamWaitEvent(context_.stream(), group_done_, 0), "ordering streams");
}

void NcclGroup::check(ncclResult_t status, const char* what) const {
  if (status == ncclSuccess) return;
  std::string text = failure(status, what);
  if (status == ncclUnhandledCudaError) {
    // Of the GPU itself, for which NCCL has no words.
    text += join_message("; CUDA says: ", cudaGetErrorString(cudaStreamQuery(stream_)));
  }
  communicator_.end_all_ranks(text);
}

void NcclGroup::check_health() const {
  ncclResult_t health = ncclSuccess;
  check(ncclCommGetAsyncError(ranks_, &health), "asking for errors");
  check(health, "exchanging gradients");
}

namespace cuda_backend {

std::string nccl_version() {
  int version = 0;
  nccl_check(ncclGetVersion(&version), "asking for the version");
  return join_message(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

void all_reduce_sum(CudaContext& context, Communicator& communicator, Vector<double> values) {
  if (communicator.size() == 1) return;
  const std::shared_ptr<NcclGroup> group = context.nccl_group(communicator);
  group->wait_for_context();
  group->check(ncclAllReduce(values.data(), values.data(), static_cast<size_t>(values.size()), ncclDouble, ncclSum,
                             group->ranks(), group->stream()),
               "summing over the ranks");
  group->context_waits();
}

std::unique_ptr<ExchangeBuffer> make_exchange_buffer(CudaContext& context, Communicator& communicator, int64_t floats) {
  if (communicator.size() == 1) return std::make_unique<OwnBuffer>(DeviceKind::kCuda, floats);
  return std::make_unique<NcclBuffer>(context, communicator, context.nccl_group(communicator), floats);
}

}  // namespace cuda_backend
}  // namespace itemloom
