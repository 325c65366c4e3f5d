#include "train/metrics.h"

#include <cmath>
#include <string>
#include <vector>

#include "tests/support/catch.h"

using namespace itemloom;

namespace {

double value(const std::string& name, const std::vector<double>& ranks) {
  return metric_value(parse_metric(name), Vector<const double>(ranks.data(), ranks.size()));
}

std::string message_of(const std::string& name) {
  try {
    parse_metric(name);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("metrics of one target", "[metrics]") {
  const std::vector<double> first = {1}, fourth = {4}, tenth = {10}, eleventh = {11};
  REQUIRE(value("hit@1", first) == 1);
  REQUIRE(value("hit@10", tenth) == 1);
  REQUIRE(value("hit@10", eleventh) == 0);
  REQUIRE(value("ndcg@10", first) == 1);
  REQUIRE(value("ndcg@10", {3}) == 0.5);
  REQUIRE(value("ndcg@10", fourth) == Approx(0.43067655807));
  REQUIRE(value("ndcg@10", eleventh) == 0);
  REQUIRE(value("mrr", fourth) == 0.25);
  REQUIRE(value("mrr", {1000}) == 0.001);
  REQUIRE(value("mrr@3", fourth) == 0);
  REQUIRE(value("mrr@4", fourth) == 0.25);
  REQUIRE(value("recall@10", tenth) == 1);
  REQUIRE(value("precision@10", tenth) == 0.1);
  REQUIRE(value("map@10", fourth) == 0.25);
  REQUIRE(value("map", eleventh) == Approx(1.0 / 11));
}

TEST_CASE("metrics of several targets", "[metrics]") {
  const std::vector<double> ranks = {1, 3, 12};
  REQUIRE(value("hit@2", ranks) == 1);
  REQUIRE(value("recall@3", ranks) == Approx(2.0 / 3));
  REQUIRE(value("recall@20", ranks) == 1);
  REQUIRE(value("precision@5", ranks) == 0.4);
  REQUIRE(value("mrr", ranks) == 1);
  // (1 + 1/2) / (1 + 1/log2 3 + 1/2)
  REQUIRE(value("ndcg@10", ranks) == Approx(1.5 / (1.5 + 1 / std::log2(3.0))));
  // The ideal list of two holds two targets.
  REQUIRE(value("ndcg@2", ranks) == Approx(1 / (1 + 1 / std::log2(3.0))));
  REQUIRE(value("map@10", ranks) == Approx((1.0 / 1 + 2.0 / 3) / 3));
  REQUIRE(value("map@2", ranks) == Approx(0.5));
  REQUIRE(value("map", ranks) == Approx((1.0 / 1 + 2.0 / 3 + 3.0 / 12) / 3));
  REQUIRE(value("hit@5", {6, 7}) == 0);
  REQUIRE(value("map@5", {6, 7}) == 0);
  REQUIRE(value("ndcg@5", {6, 7}) == 0);
}

TEST_CASE("half ranks come from ties and count as hits up to the cut-off", "[metrics]") {
  REQUIRE(value("hit@10", {10.5}) == 0);
  REQUIRE(value("hit@10", {9.5}) == 1);
  REQUIRE(value("hit@1", {1.5}) == 0);
  REQUIRE(value("mrr", {2.5}) == 0.4);
  REQUIRE(value("ndcg@10", {2.5}) == Approx(1 / std::log2(3.5)));
}

TEST_CASE("no metric exceeds one where several targets are tied at the cut-off", "[metrics]") {
  // Three targets share the first three places: each has rank 2.
  const std::vector<double> tied = {2, 2, 2};
  REQUIRE(value("precision@2", tied) == 1);
  REQUIRE(value("recall@2", tied) == Approx(2.0 / 3));
  REQUIRE(value("ndcg@2", tied) == Approx(2 / std::log2(3.0) / (1 + 1 / std::log2(3.0))));
  REQUIRE(value("map@2", tied) == Approx((1.0 / 2 + 2.0 / 2) / 2));
  REQUIRE(value("map", tied) == Approx(1));
  REQUIRE(value("precision@1", tied) == 0);
}

TEST_CASE("names of metrics", "[metrics]") {
  REQUIRE(parse_metric("hit@10").cutoff == 10);
  REQUIRE(parse_metric("hit@10").kind == Metric::Kind::kHit);
  REQUIRE(parse_metric("recall@7").name == "recall@7");
  REQUIRE(parse_metric("mrr").cutoff > int64_t{1} << 60);
  for (const char* wrong : {"", "ndgc@10", "hit", "ndcg", "NDCG@10", "hit@", "hit@0", "hit@-3", "hit@1.5", "hit@ten",
                            "hit@10 ", "hit @10", "@10", "hit@10@10", "hit@99999999999999999999"}) {
    INFO(wrong);
    const std::string message = message_of(wrong);
    REQUIRE(message.find(join_message("'", wrong, "'")) != std::string::npos);
    REQUIRE(message.find("hit@K, ndcg@K, recall@K, precision@K, mrr, mrr@K, map and map@K") != std::string::npos);
  }
  REQUIRE(parse_metrics({"hit@1", "hit@5", "mrr"}).size() == 3);
  REQUIRE_THROWS_WITH(parse_metrics({}), Catch::Contains("evaluation.metrics is empty"));
  REQUIRE_THROWS_WITH(parse_metrics({"hit@1", "mrr", "hit@01"}), Catch::Contains("names hit@01 twice"));
}
