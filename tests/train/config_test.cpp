#include "train/config.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include "tests/support/catch.h"

#include "core/config_reader.h"
#include "train/config_fingerprint.h"

namespace itemloom {
namespace {

namespace fs = std::filesystem;

const std::string kConfigs = ITEMLOOM_SOURCE_DIR "/configs/";

Config valid_config() {
  Config config;
  config.data.files = {"/rows.csv"};
  config.data.columns = {.user = "u", .item = "i", .timestamp = "t", .basket = "b", .title = ""};
  return config;
}

std::string problem(const std::function<void(Config&)>& change) {
  Config config = valid_config();
  change(config);
  try {
    validate(config);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("The bundled configs load, and their resolved form loads to the same", "[config]") {
  std::string name = (fs::temp_directory_path() / "itemloom-config-XXXXXX").string();
  REQUIRE(mkdtemp(name.data()) != nullptr);
  for (const char* config : {"online-retail", "ml-100k", "ml-1m", "beauty", "tiny"}) {
    INFO(config);
    const LoadedConfig loaded = load_config(kConfigs + config + ".json", {"training.seed=3"});
    REQUIRE(loaded.values.training.seed == 3);
    for (const std::string& file : loaded.values.data.files) REQUIRE(fs::path(file).is_absolute());
    const std::string resolved = name + "/config.resolved.json";
    std::ofstream(resolved) << loaded.resolved;
    const LoadedConfig again = load_config(resolved, {});
    REQUIRE(again.resolved == loaded.resolved);
    REQUIRE(config_fingerprint(again.values) == config_fingerprint(loaded.values));

    const nlohmann::json values = nlohmann::json::parse(loaded.resolved);
    const nlohmann::json origins = nlohmann::json::parse(loaded.origins);
    REQUIRE(origins["training"]["seed"] == "--set");
    REQUIRE(origins["training"]["precision"] == "default");
    REQUIRE(origins["model"].size() == values["model"].size());
    REQUIRE(values["optimizer"].contains("beta1"));
    REQUIRE(!values["optimizer"].contains("momentum"));
  }
  fs::remove_all(name);
}

TEST_CASE("The tiny config is the main one made small", "[config]") {
  const LoadedConfig tiny = load_config(kConfigs + "tiny.json", {});
  const LoadedConfig full = load_config(kConfigs + "online-retail.json", {});
  REQUIRE(tiny.values.data.files == full.values.data.files);
  REQUIRE(tiny.values.data.filters.size() == full.values.data.filters.size());
  REQUIRE(tiny.values.data.max_length < full.values.data.max_length);
  REQUIRE(nlohmann::json::parse(tiny.origins)["data"]["filters"] == kConfigs + "online-retail.json");
}

TEST_CASE("The keys that scripts rely on exist", "[config]") {
  const nlohmann::json schema = nlohmann::json::parse(config_schema());
  for (const char* path :
       {"data/files", "data/format", "data/max_length", "data/split", "model/name", "model/hidden_size", "model/layers",
        "model/heads", "model/inner_size", "model/dropout", "training/epochs", "training/batch_size", "training/seed",
        "training/threads", "training/precision", "optimizer/name", "optimizer/learning_rate", "evaluation/metrics",
        "evaluation/seen_items"}) {
    INFO(path);
    const std::string text = path;
    const size_t slash = text.find('/');
    const nlohmann::json& group = schema["properties"][text.substr(0, slash)]["properties"];
    REQUIRE(group.contains(text.substr(slash + 1)));
  }
  REQUIRE(schema["properties"].contains("device"));
}

// Every key has a help and, where it can be dead, a reason; every default is one of its own choices and in its range.
TEST_CASE("Every key is described, and its default is allowed", "[config]") {
  const nlohmann::json schema = nlohmann::json::parse(config_schema());
  const std::function<void(const nlohmann::json&, const std::string&)> visit = [&](const nlohmann::json& object,
                                                                                   const std::string& path) {
    REQUIRE(object["additionalProperties"] == false);
    for (const auto& [key, field] : object["properties"].items()) {
      const std::string here = path + "." + key;
      INFO(here);
      const std::string description = field["description"];
      REQUIRE(description.size() > 8);
      REQUIRE(description.back() == '.');
      if (field.contains("properties")) visit(field, here);
      if (field.contains("items") && field["items"].contains("properties")) visit(field["items"], here);
      if (field.contains("enum")) {
        const nlohmann::json& choices = field["enum"];
        REQUIRE(std::find(choices.begin(), choices.end(), field["default"]) != choices.end());
      }
      if (field.contains("minimum")) REQUIRE(field["default"] >= field["minimum"]);
      if (field.contains("exclusiveMinimum")) REQUIRE(field["default"] > field["exclusiveMinimum"]);
      if (field.contains("maximum")) REQUIRE(field["default"] <= field["maximum"]);
      if (field.contains("exclusiveMaximum")) REQUIRE(field["default"] < field["exclusiveMaximum"]);
    }
  };
  visit(schema, "");
}

TEST_CASE("Refusals on the way through the whole config name file, line and key", "[config]") {
  const std::string file = kConfigs + "online-retail.json";
  REQUIRE_THROWS_WITH(load_config(file, {"model.heads=3"}),
                      file + ": model.heads 3 does not divide model.hidden_size 64");
  REQUIRE_THROWS_WITH(load_config(file, {"batch_size=3"}),
                      "--set batch_size=3: batch_size is no key; did you mean training.batch_size or "
                      "evaluation.batch_size?");
  REQUIRE_THROWS_WITH(load_config(file, {"model.batch_tokens=3"}),
                      "--set model.batch_tokens=3: model.batch_tokens is no key; did you mean training.batch_tokens?");
  REQUIRE_THROWS_WITH(load_config(file, {"device=gpu"}),
                      "--set device=gpu: device is \"gpu\", but must be \"cpu\" or \"cuda\"; did you mean \"cpu\"?");
  for (const std::string precision : {"tf32", "bf16"}) {
    REQUIRE_THROWS_WITH(load_config(file, {"training.precision=" + precision}),
                        file + ": training.precision is " + precision +
                            ", but device cpu computes in fp32 only; set it to fp32, or device to cuda");
  }
  REQUIRE_THROWS_WITH(
      load_config(file, {"training.cuda_graphs=true"}),
      file + ": training.cuda_graphs is true, but device cpu has no graphs; set it to false, or device to cuda");
  REQUIRE_THROWS_WITH(load_config(file, {"device=cuda", "training.graph_bucket=64"}),
                      "--set training.graph_bucket=64: training.graph_bucket has no effect here, only when "
                      "training.cuda_graphs is true; remove it or set it to null");
  REQUIRE(load_config(file, {"device=cuda", "training.precision=bf16"}).values.training.precision == "bf16");
  REQUIRE_THROWS_WITH(load_config(file, {"training.gradient_exchange=bf16"}),
                      file +
                          ": training.gradient_exchange is bf16, but on device cpu gradients travel in fp32 only; "
                          "set it to fp32, or device to cuda");
  REQUIRE(load_config(file, {"device=cuda", "training.gradient_exchange=bf16"}).values.training.gradient_exchange ==
          "bf16");
  REQUIRE_THROWS_WITH(
      load_config(file, {"optimizer.momentum=0.9"}),
      "--set optimizer.momentum=0.9: optimizer.momentum has no effect here, only when optimizer.name is "
      "sgd or rmsprop; remove it or set it to null");
  REQUIRE_THROWS_WITH(load_config(file, {"data.format=sequences"}),
                      file +
                          ":5: data.columns.user has no effect here, only when data.format is csv or inter; remove it "
                          "or set it to null");
  REQUIRE_THROWS_WITH(load_config(file, {"training.batch_tokens=4096", "training.batch_size=4"}),
                      "--set training.batch_size=4: training.batch_size has no effect here, only when "
                      "training.batch_tokens is 0; remove it or set it to null");
}

TEST_CASE("Values that do not fit each other are refused", "[config]") {
  REQUIRE(problem([](Config&) {}) == "");

  REQUIRE(problem([](Config& c) { c.data.files = {}; }) == "data.files is empty; name at least one file");
  REQUIRE(problem([](Config& c) { c.data.files = {""}; }) == "data.files: a name is empty");
  REQUIRE(problem([](Config& c) {
            c.data.files = {"a", "b"};
            c.data.format = "prepared";
          }) == "");
  REQUIRE(problem([](Config& c) { c.data.columns.item = ""; }).find("data.columns.item is not given") == 0);
  REQUIRE(problem([](Config& c) { c.data.columns.user = ""; }).find("data.columns.user is not given") == 0);
  REQUIRE(problem([](Config& c) {
            c.data.columns.user = "";
            c.data.sequence_by = "basket";
          }) == "");
  REQUIRE(problem([](Config& c) {
            c.data.sequence_by = "basket";
            c.data.columns.basket = "";
          }).find("data.columns.basket is not given") == 0);
  REQUIRE(
      problem([](Config& c) { c.data.csv.header = false; }) ==
      "data.columns.user is \"u\", but without a header (data.csv.header is false) columns are numbers from \"1\" on");
  REQUIRE(problem([](Config& c) {
            c.data.csv.header = false;
            c.data.columns = {.user = "1", .item = "2", .timestamp = "", .basket = "", .title = "12"};
          }) == "");
  REQUIRE(problem([](Config& c) {
            c.data.titles.file = "/t";
            c.data.titles.header = false;
            c.data.titles.title_column = "0";
          }).find("data.titles.title_column is \"0\"") == 0);

  REQUIRE(problem([](Config& c) { c.data.split = "temporal"; }).find("data.temporal.validation_from is not given") ==
          0);
  REQUIRE(problem([](Config& c) {
            c.data.split = "temporal";
            c.data.temporal = {"2011-01-01", ""};
          }).find("data.temporal.test_from is not given") == 0);
  REQUIRE(problem([](Config& c) {
            c.data.split = "temporal";
            c.data.columns.timestamp = "";
          }).find("data.columns.timestamp is not given, but data.split is temporal") == 0);
  REQUIRE(problem([](Config& c) {
            c.data.split = "temporal";
            c.data.format = "sequences";
          }) == "data.split is temporal, but data.format is sequences, which has no times");
  REQUIRE(problem([](Config& c) {
            c.data.windows = "sliding";
            c.data.window_stride = 201;
          }).find("data.window_stride 201 is more than data.max_length 200") == 0);

  const auto with_filter = [](FilterConfig filter, const std::string& format = "csv") {
    return problem([&](Config& c) {
      c.data.format = format;
      c.data.filters = {{.rule = "k_core"}, filter};
    });
  };
  REQUIRE(with_filter({.rule = "match", .column = "a", .pattern = "x"}) == "");
  REQUIRE(with_filter({.rule = "match", .pattern = "x"}).find("data.filters[1].column is not given") == 0);
  REQUIRE(with_filter({.rule = "match", .column = "a"}).find("data.filters[1].pattern is not given") == 0);
  REQUIRE(with_filter({.rule = "missing"}) == "data.filters[1].columns is empty; name the columns to look at");
  REQUIRE(with_filter({.rule = "positive", .columns = {""}}) == "data.filters[1]: a column's name is empty");
  REQUIRE(with_filter({.rule = "duplicates"}, "sequences") == "");
  REQUIRE(with_filter({.rule = "missing", .columns = {"q"}}, "sequences") ==
          "data.filters[1] looks at the column \"q\", but data.format is sequences, which has no columns");

  REQUIRE(problem([](Config& c) { c.model.heads = 3; }) == "model.heads 3 does not divide model.hidden_size 64");
  REQUIRE(problem([](Config& c) { c.training.batch_tokens = 199; }) ==
          "training.batch_tokens 199 is less than data.max_length 200, so that one sequence would not fit a batch");
  REQUIRE(problem([](Config& c) {
            c.optimizer.schedule = {.name = "linear", .warmup_steps = 10, .total_steps = 10};
          }) == "optimizer.schedule.warmup_steps 10 is not less than optimizer.schedule.total_steps 10");
}

TEST_CASE("Metrics are known by name, and the one that stops is measured", "[config]") {
  const auto with_metrics = [](std::vector<std::string> metrics) {
    metrics.push_back("ndcg@10");
    return problem([&](Config& c) { c.evaluation.metrics = metrics; });
  };
  REQUIRE(with_metrics({"hit@1", "recall@5", "precision@20", "map@3", "map", "mrr", "mrr@7"}) == "");
  REQUIRE(with_metrics({"auc"}).find("there is no metric 'auc'") == 0);
  REQUIRE(with_metrics({"hit@0"}).find("the metric 'hit@0'") == 0);
  REQUIRE(with_metrics({"mrr", "mrr"}) == "evaluation.metrics names mrr twice");
  REQUIRE(problem([](Config& c) { c.evaluation.metrics = {}; }).find("evaluation.metrics is empty") == 0);
  REQUIRE(problem([](Config& c) { c.evaluation.metrics = {"mrr"}; }) ==
          "training.early_stopping.metric is \"ndcg@10\", which is not one of evaluation.metrics; add it there");
  REQUIRE(problem([](Config& c) {
            c.evaluation.metrics = {"mrr"};
            c.training.validate_every = 0;
          }) == "");
}

TEST_CASE("The fingerprint changes with what decides the parameters, and only then", "[config]") {
  const std::string before = config_fingerprint(valid_config());
  REQUIRE(before.size() == 64);
  const auto changes = [&](const std::function<void(Config&)>& change) {
    Config config = valid_config();
    change(config);
    return config_fingerprint(config) != before;
  };
  REQUIRE(changes([](Config& c) { c.model.layers = 3; }));
  REQUIRE(changes([](Config& c) { c.data.max_length = 100; }));
  REQUIRE(changes([](Config& c) { c.masking.probability = 0.3; }));
  REQUIRE(changes([](Config& c) { c.training.seed = 2; }));
  REQUIRE(changes([](Config& c) { c.training.precision = "bf16"; }));
  REQUIRE(changes([](Config& c) { c.training.gradient_exchange = "bf16"; }));
  REQUIRE(changes([](Config& c) { c.training.batch_size = 2; }));
  REQUIRE(changes([](Config& c) { c.optimizer.learning_rate = 2; }));
  REQUIRE(changes([](Config& c) { c.data.filters = {FilterConfig{}}; }));
  REQUIRE(!changes([](Config& c) { c.data.files = {"/other.csv"}; }));
  REQUIRE(!changes([](Config& c) { c.training.threads = 2; }));
  REQUIRE(!changes([](Config& c) { c.training.epochs = 2; }));
  REQUIRE(!changes([](Config& c) { c.training.keep_last = 2; }));
  REQUIRE(!changes([](Config& c) { c.training.keep_best = 2; }));
  REQUIRE(!changes([](Config& c) { c.evaluation.metrics = {"mrr"}; }));
  REQUIRE(!changes([](Config& c) { c.export_.neighbors = 2; }));
  REQUIRE(!changes([](Config& c) { c.data.titles.file = "/t"; }));
  REQUIRE(!changes([](Config& c) { c.data.columns.title = "t"; }));
  REQUIRE(!changes([](Config& c) { c.optimizer.momentum = 0.5; }));  // adamw has none

  Config linear = valid_config();
  linear.optimizer.schedule.name = "linear";
  const std::string falls = config_fingerprint(linear);
  linear.training.epochs = 2;
  REQUIRE(config_fingerprint(linear) != falls);
}

TEST_CASE("The first difference of two configs is one that decides", "[config]") {
  const Config there = valid_config();
  const auto difference = [&](const std::function<void(Config&)>& change) {
    Config here = there;
    change(here);
    REQUIRE(first_deciding_difference(here, there).empty() == (config_fingerprint(here) == config_fingerprint(there)));
    return first_deciding_difference(here, there);
  };
  const auto change_what_decides_nothing = [](Config& c) {
    c.data.files = {"/other.csv"};
    c.data.columns.title = "t";
    c.data.titles.file = "/t";
    c.training.epochs = 2;
    c.training.threads = 2;
    c.training.validate_every = 0;  // with which training.early_stopping is no longer there
    c.training.checkpoint_every = 7;
    c.training.max_skipped_steps = 7;
    c.evaluation.metrics = {"mrr"};
    c.export_.neighbors = 2;
  };
  REQUIRE(difference(change_what_decides_nothing) == "");
  REQUIRE(difference([&](Config& c) {
            change_what_decides_nothing(c);
            c.optimizer.schedule.warmup_steps = 3;
          }) == "optimizer.schedule.warmup_steps is 3 here and 0 there");
  // What only one of them has is there because of another value, which is named.
  REQUIRE(difference([](Config& c) { c.training.batch_tokens = 4096; }) ==
          "training.batch_tokens is 4096 here and 0 there");
  REQUIRE(difference([](Config& c) { c.optimizer.name = "sgd"; }) ==
          "optimizer.name is \"sgd\" here and \"adamw\" there");
  REQUIRE(difference([](Config& c) { c.data.filters = {FilterConfig{.rule = "k_core"}}; }) ==
          "data.filters is [{\"rule\":\"k_core\",\"users\":5,\"items\":5}] here and [] there");
  Config linear = there;
  linear.optimizer.schedule.name = "linear";
  Config longer = linear;
  longer.training.epochs = 2;
  REQUIRE(first_deciding_difference(linear, longer) == "training.epochs is 100 here and 2 there");
}

TEST_CASE("parts of a batch suit the device unless the config says how large they are", "[config]") {
  TrainingConfig training;
  REQUIRE(piece_tokens_on(DeviceKind::kCpu, training) == 2048);
  REQUIRE(piece_tokens_on(DeviceKind::kCuda, training) == 32768);
  training.micro_batch_tokens = 100;
  REQUIRE(piece_tokens_on(DeviceKind::kCpu, training) == 100);
  REQUIRE(piece_tokens_on(DeviceKind::kCuda, training) == 100);
}

}  // namespace itemloom
