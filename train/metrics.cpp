#include "train/metrics.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <string_view>

#include "core/check.h"

namespace itemloom {
namespace {

constexpr int64_t kNoCutoff = std::numeric_limits<int64_t>::max();

struct MetricName {
  std::string_view name;
  Metric::Kind kind;
  bool needs_cutoff;
};
constexpr MetricName kMetricNames[] = {
    {"hit", Metric::Kind::kHit, true},  {"ndcg", Metric::Kind::kNdcg, true},
    {"mrr", Metric::Kind::kMrr, false}, {"recall", Metric::Kind::kRecall, true},
    {"map", Metric::Kind::kMap, false}, {"precision", Metric::Kind::kPrecision, true},
};

constexpr const char* kKnown =
    "the metrics are hit@K, ndcg@K, recall@K, precision@K, mrr, mrr@K, map and map@K with a whole number K from 1 on, "
    "such as ndcg@10";

double discount(double rank) {
  return 1.0 / std::log2(rank + 1.0);
}

}  // namespace

Metric parse_metric(const std::string& text) {
  const size_t at = text.find('@');
  const std::string_view name = std::string_view(text).substr(0, at);
  for (const MetricName& known : kMetricNames) {
    if (name != known.name) continue;
    if (at == std::string::npos) {
      CHECK(!known.needs_cutoff, "the metric '", text, "' has no cut-off; ", kKnown);
      return {known.kind, kNoCutoff, text};
    }
    int64_t cutoff = 0;
    const char* end = text.data() + text.size();
    const auto [parsed, error] = std::from_chars(text.data() + at + 1, end, cutoff);
    CHECK(error == std::errc() && parsed == end && cutoff >= 1, "the metric '", text,
          "' does not end in a cut-off from 1 on; ", kKnown);
    return {known.kind, cutoff, text};
  }
  fail("there is no metric '", text, "'; ", kKnown);
}

std::vector<Metric> parse_metrics(const std::vector<std::string>& texts) {
  CHECK(!texts.empty(), "evaluation.metrics is empty; ", kKnown);
  std::vector<Metric> metrics;
  for (const std::string& text : texts) {
    Metric metric = parse_metric(text);
    for (const Metric& other : metrics) {
      CHECK(other.kind != metric.kind || other.cutoff != metric.cutoff, "evaluation.metrics names ", text, " twice");
    }
    metrics.push_back(std::move(metric));
  }
  return metrics;
}

double metric_value(const Metric& metric, Vector<const double> ranks) {
  const int64_t targets = ranks.size();
  const int64_t most = std::min(targets, metric.cutoff);
  int64_t hits = 0;
  while (hits < most && ranks[hits] <= static_cast<double>(metric.cutoff)) ++hits;
  switch (metric.kind) {
    case Metric::Kind::kHit:
      return hits > 0 ? 1.0 : 0.0;
    case Metric::Kind::kRecall:
      return static_cast<double>(hits) / static_cast<double>(targets);
    case Metric::Kind::kPrecision:
      return static_cast<double>(hits) / static_cast<double>(metric.cutoff);
    case Metric::Kind::kMrr:
      return hits > 0 ? 1.0 / ranks[0] : 0.0;
    case Metric::Kind::kNdcg: {
      double gain = 0, ideal = 0;
      for (int64_t place = 0; place < hits; ++place) gain += discount(ranks[place]);
      for (int64_t place = 0; place < most; ++place) ideal += discount(static_cast<double>(place + 1));
      return gain / ideal;
    }
    case Metric::Kind::kMap: {
      double sum = 0;
      for (int64_t place = 0; place < hits; ++place) sum += static_cast<double>(place + 1) / ranks[place];
      return sum / static_cast<double>(most);
    }
  }
  fail("unknown kind of metric");
}

}  // namespace itemloom
