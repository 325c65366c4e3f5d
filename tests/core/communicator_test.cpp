#include "core/communicator.h"

#include <atomic>
#include <cstring>
#include <numeric>
#include <thread>

#include "tests/support/catch.h"
#include "tests/support/kernels.h"
#include "tests/support/thread_group.h"

namespace itemloom {
namespace {

// The tree by its definition.
template <class Number>
Number tree(const std::vector<Number>& values, size_t begin, size_t end) {
  if (end - begin == 1) return values[begin];
  size_t left = 1;
  while (2 * left < end - begin) left *= 2;
  return tree(values, begin, begin + left) + tree(values, begin + left, end);
}

std::vector<float> values_of(int rank, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i)
    values[i] = static_cast<float>(test::random_int(rank, i, 2000001) - 1000000) / 977;
  return values;
}

std::vector<float> tree_of_all(int ranks, int64_t count) {
  std::vector<std::vector<float>> all;
  for (int rank = 0; rank < ranks; ++rank) all.push_back(values_of(rank, count));
  std::vector<float> sums;
  for (int64_t i = 0; i < count; ++i) {
    std::vector<float> column;
    for (const auto& one : all) column.push_back(one[static_cast<size_t>(i)]);
    sums.push_back(tree(column, 0, column.size()));
  }
  return sums;
}

}  // namespace

TEST_CASE("a tree sum is that of its definition, wherever it is written to", "[communicator]") {
  for (const int count : {1, 2, 3, 4, 5, 7, 8}) {
    for (const int64_t size : {0, 1, 1023, 1024, 1025, 3000}) {
      const std::vector<float> expected = tree_of_all(count, size);
      for (int target = -1; target < count; ++target) {
        std::vector<std::vector<float>> all;
        for (int rank = 0; rank < count; ++rank) all.push_back(values_of(rank, size));
        std::vector<const float*> sources;
        for (const auto& one : all) sources.push_back(one.data());
        std::vector<float> apart(static_cast<size_t>(size) + 1, 7);
        float* out = target < 0 ? apart.data() : all[static_cast<size_t>(target)].data();
        tree_sum(sources.data(), count, size, out);
        REQUIRE(test::same_bits(std::vector<float>(out, out + size), expected));
        REQUIRE(apart.back() == 7);
      }
    }
  }
}

TEST_CASE("shares cover a range in whole blocks, in order, whatever the number of ranks", "[communicator]") {
  for (const int64_t blocks : {0, 1, 2, 5, 64}) {
    for (const int64_t rest : {0, 1, 16383}) {
      for (const int ranks : {1, 2, 3, 7, 100}) {
        const FlatRange range{3 * kShareBlock, (3 + blocks) * kShareBlock + rest};
        int64_t next = range.begin;
        for (int rank = 0; rank < ranks; ++rank) {
          const FlatRange share = share_of(range, rank, ranks);
          REQUIRE(share.begin == next);
          REQUIRE((share.size() == 0 || share.begin % kShareBlock == 0));
          next = share.end;
        }
        REQUIRE(next == range.end);
      }
    }
  }
}

TEST_CASE("collectives give every rank the same, of any size", "[communicator]") {
  for (const int ranks : {1, 2, 3, 5}) {
    INFO(ranks << " ranks");
    std::vector<int> wrong(static_cast<size_t>(ranks), -1);
    test::run_ranks_well(ranks, [&](Communicator& communicator) {
      const int rank = communicator.rank();
      int faults = communicator.size() == ranks ? 0 : 1;
      for (const int64_t count : {0, 1, 1000, 20000, 70001}) {
        std::vector<int64_t> mine(static_cast<size_t>(count)), all(static_cast<size_t>(count * ranks));
        for (int64_t i = 0; i < count; ++i) mine[i] = rank * 1000003 + i;
        communicator.all_gather(mine.data(), count * 8, all.data());
        for (int other = 0; other < ranks; ++other) {
          for (int64_t i = 0; i < count; ++i) faults += all[other * count + i] != other * 1000003 + i;
        }
        const int root = static_cast<int>(count) % ranks;
        communicator.broadcast(mine.data(), count * 8, root);
        for (int64_t i = 0; i < count; ++i) faults += mine[i] != root * 1000003 + i;
      }
      int64_t number = rank + 1;
      communicator.all_reduce_sum(Vector<int64_t>(&number, 1));
      faults += number != ranks * (ranks + 1) / 2;
      double fraction = 1.0 / (3 + rank);
      communicator.all_reduce_sum(Vector<double>(&fraction, 1));
      std::vector<double> fractions;
      for (int other = 0; other < ranks; ++other) fractions.push_back(1.0 / (3 + other));
      faults += fraction != tree(fractions, 0, fractions.size());
      const auto texts = communicator.all_gather_text(std::string(static_cast<size_t>(rank * 50000), 'a' + rank));
      for (int other = 0; other < ranks; ++other) {
        faults += texts[other] != std::string(static_cast<size_t>(other * 50000), 'a' + other);
      }
      wrong[static_cast<size_t>(rank)] = faults;
    });
    for (const int faults : wrong) REQUIRE(faults == 0);
  }
}

TEST_CASE("an exchange buffer sums and shares ranges and leaves the rest alone", "[communicator]") {
  const int64_t count = 5 * kShareBlock + 100;
  const FlatRange range{kShareBlock, count};
  for (const int ranks : {1, 2, 3, 4}) {
    INFO(ranks << " ranks");
    std::vector<std::vector<float>> results(static_cast<size_t>(ranks));
    test::run_ranks_well(ranks, [&](Communicator& communicator) {
      const auto buffer = communicator.make_exchange_buffer(count);
      const std::vector<float> mine = values_of(communicator.rank(), count);
      for (int round = 0; round < 20; ++round) {
        std::copy(mine.begin(), mine.end(), buffer->values().begin());
        buffer->reduce_scatter_sum(range);
        buffer->all_gather(range);
        communicator.barrier();
      }
      results[static_cast<size_t>(communicator.rank())].assign(buffer->values().begin(), buffer->values().end());
    });
    std::vector<float> expected = tree_of_all(ranks, count);
    for (int rank = 0; rank < ranks; ++rank) {
      const std::vector<float> own = values_of(rank, count);
      std::copy(own.begin(), own.begin() + range.begin, expected.begin());
      REQUIRE(std::memcmp(results[rank].data(), expected.data(), expected.size() * sizeof(float)) == 0);
    }
  }
}

TEST_CASE("CPUs refuse to exchange bf16", "[communicator]") {
  const auto communicator = make_self_communicator();
  const auto buffer = communicator->make_exchange_buffer(1);
  REQUIRE_THROWS_WITH(buffer->all_reduce_rounded(Vector<Bf16>::none()), "CPUs exchange numbers in fp32 only");
  REQUIRE_THROWS_WITH(buffer->reduce_scatter_rounded(Vector<Bf16>::none()), "CPUs exchange numbers in fp32 only");
}

TEST_CASE("what one rank throws ends all of them with its message", "[communicator]") {
  const auto messages = test::run_ranks(3, [](Communicator& communicator) {
    together(communicator, [] {});
    together(communicator, [&] { CHECK(communicator.rank() != 1, "no disk here"); });
  });
  for (const std::string& message : messages) REQUIRE(message == "rank 1: no disk here");
  const auto same =
      test::run_ranks(3, [](Communicator& communicator) { together(communicator, [] { fail("bad key"); }); });
  for (const std::string& message : same) REQUIRE(message == "bad key");
}

TEST_CASE("ranks that wait for one that has left end, too", "[communicator]") {
  const auto messages = test::run_ranks(3, [](Communicator& communicator) {
    const auto buffer = communicator.make_exchange_buffer(kShareBlock);
    CHECK(communicator.rank() != 2, "rank 2 gives up");
    if (communicator.rank() == 0) communicator.barrier();
    buffer->reduce_scatter_sum({0, kShareBlock});
  });
  REQUIRE(messages[0] == "rank 0 waits for a rank that has left");
  REQUIRE(messages[1] == "rank 1 waits for a rank that has left");
  REQUIRE(messages[2] == "rank 2 gives up");
}

}  // namespace itemloom
