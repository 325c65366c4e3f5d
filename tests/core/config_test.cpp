#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include "tests/support/catch.h"

#include "core/config_keys.h"
#include "core/config_reader.h"
#include "core/json_schema.h"

namespace itemloom {
namespace {

namespace fs = std::filesystem;

struct Inner {
  double rate = 0.5;
  int64_t count = 3;
  std::string kind = "soft";
  bool on = true;
  double hard_limit = 1;
  template <class Visitor>
  void describe(Visitor& visit) {
    visit.field("rate", rate, {.help = "A rate.", .above = 0.0, .maximum = 1.0});
    visit.field("count", count, {.help = "A count.", .minimum = 1});
    visit.field("kind", kind, {.help = "A kind.", .choices = {"soft", "hard", "harder"}});
    visit.field("on", on, {.help = "A switch."});
    visit.field("hard_limit", hard_limit,
                {.help = "A limit.",
                 .minimum = 0.0,
                 .below = 9.0,
                 .active = kind == "hard",
                 .active_when = "inner.kind is hard"});
  }
};

struct Step {
  std::string rule = "a";
  int64_t size = 1;
  template <class Visitor>
  void describe(Visitor& visit) {
    visit.field("rule", rule, {.help = "A rule.", .choices = {"a", "b"}});
    visit.field("size", size, {.help = "A size.", .active = rule == "b", .active_when = "rule is b"});
  }
};

struct Outer {
  std::string device = "cpu";
  std::string path;
  std::vector<std::string> paths = {};
  std::vector<int64_t> numbers = {1, 2};
  std::vector<double> weights = {};
  std::vector<std::string> names = {"x"};
  std::vector<Step> steps = {};
  Inner inner;
  Inner spare;
  bool use_spare = false;
  template <class Visitor>
  void describe(Visitor& visit) {
    visit.field("device", device, {.help = "A device.", .choices = {"cpu"}});
    visit.field("path", path, {.help = "A path.", .is_path = true});
    visit.field("paths", paths, {.help = "Paths.", .is_path = true});
    visit.field("numbers", numbers, {.help = "Numbers.", .minimum = 0, .maximum = 9});
    visit.field("weights", weights, {.help = "Weights."});
    visit.field("names", names, {.help = "Names.", .choices = {"x", "y"}});
    visit.list("steps", steps, {.help = "Steps."});
    visit.group("inner", inner, {.help = "A group."});
    visit.field("use_spare", use_spare, {.help = "A switch."});
    visit.group("spare", spare, {.help = "Another.", .active = use_spare, .active_when = "use_spare is true"});
  }
};

// A folder that goes with the test.
class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "itemloom-config-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~Folder() { fs::remove_all(path_); }
  Folder(const Folder&) = delete;
  std::string write(const std::string& name, const std::string& text) const {
    fs::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << text;
    return (path_ / name).string();
  }
  std::string at(const std::string& name) const { return (path_ / name).string(); }

 private:
  fs::path path_;
};

struct Loaded {
  Outer values;
  JsonNode given;
};

Loaded load(const std::string& file, const std::vector<std::string>& settings = {}) {
  ConfigLayers layers;
  layers.add_file(file);
  for (const std::string& setting : settings) layers.add_setting(setting);
  Loaded loaded;
  loaded.given = read_config(layers, loaded.values);
  return loaded;
}

// The message of the refusal, without the folder's path.
std::string refusal(const Folder& folder, const std::string& text, const std::vector<std::string>& settings = {}) {
  const std::string file = folder.write("a.json", text);
  try {
    load(file, settings);
  } catch (const Error& error) {
    std::string message = error.what();
    const std::string prefix = folder.at("");
    for (size_t at; (at = message.find(prefix)) != std::string::npos;) message.erase(at, prefix.size());
    REQUIRE(message.find('\n') == std::string::npos);
    return message;
  }
  return "no refusal";
}

}  // namespace

TEST_CASE("A config file sets what it names and leaves the rest", "[config]") {
  const Folder folder;
  const std::string file = folder.write("a.json", R"({
    "$schema": "itemloom.schema.json",
    "path": "data/x", "paths": ["../y", "/z", ""], "numbers": [], "weights": [1, 2.5],
    "steps": [{"rule": "b", "size": 7}, {}],
    "inner": {"count": 1e3, "kind": "hard", "hard_limit": 2}
  })");
  const Outer values = load(file).values;
  REQUIRE(values.path == folder.at("data/x"));
  REQUIRE(values.paths == std::vector<std::string>{fs::path(folder.at("../y")).lexically_normal().string(), "/z", ""});
  REQUIRE(values.numbers.empty());
  REQUIRE(values.weights == std::vector<double>{1, 2.5});
  REQUIRE(values.names == std::vector<std::string>{"x"});
  REQUIRE(values.steps.size() == 2);
  REQUIRE(values.steps[0].size == 7);
  REQUIRE(values.steps[1].rule == "a");
  REQUIRE(values.inner.count == 1000);
  REQUIRE(values.inner.hard_limit == 2);
  REQUIRE(values.inner.rate == 0.5);
}

TEST_CASE("Unknown keys are refused with what may be meant", "[config]") {
  const Folder folder;
  REQUIRE(refusal(folder, "{\n\"inner\": {\n\"cuont\": 2}}") ==
          "a.json:3: inner.cuont is no key; did you mean inner.count?");
  REQUIRE(refusal(folder, R"({"hard_limit": 2})") ==
          "a.json:1: hard_limit is no key; did you mean inner.hard_limit or spare.hard_limit?");
  REQUIRE(refusal(folder, R"({"inner": {"useSpare": true}})") ==
          "a.json:1: inner.useSpare is no key; did you mean use_spare?");
  REQUIRE(refusal(folder, R"({"inner": {"Rate": 1}})") == "a.json:1: inner.Rate is no key; did you mean inner.rate?");
  REQUIRE(refusal(folder, R"({"inner": {"temperature": 1}})") ==
          "a.json:1: inner.temperature is no key; the keys of inner are rate, count, kind, on, hard_limit");
  REQUIRE(refusal(folder, R"({"zzz": {}})") ==
          "a.json:1: zzz is no key; the keys here are device, path, paths, numbers, weights, names, steps, inner, "
          "use_spare, spare");
  REQUIRE(refusal(folder, R"({"inner.rate": 1})") ==
          "a.json:1: inner.rate is no key; each dot is an object of its own, {\"inner\": {\"rate\": ...}}");
  REQUIRE(refusal(folder, R"({"steps": [{}, {"sise": 2}]})") ==
          "a.json:1: steps[1].sise is no key; did you mean steps[1].size?");
  REQUIRE(refusal(folder, R"({"inner": {"temperature": null}})").find("is no key") != std::string::npos);
  REQUIRE(refusal(folder, R"({"inner": {"extends": "b.json"}})").find("inner.extends is no key") != std::string::npos);
  REQUIRE(refusal(folder, "{}", {"inner.cuont=2"}) ==
          "--set inner.cuont=2: inner.cuont is no key; did you mean inner.count?");
}

TEST_CASE("Wrong types are refused", "[config]") {
  const Folder folder;
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"({"inner": {"count": "two"}})", R"(inner.count must be a whole number, not the string "two")"},
      {R"({"inner": {"count": 2.5}})", "inner.count must be a whole number, not 2.5"},
      {R"({"inner": {"count": true}})", "inner.count must be a whole number, not true"},
      {R"({"inner": {"count": [1]}})", "inner.count must be a whole number, not a list"},
      {R"({"inner": {"count": 1e300}})", "inner.count must be a whole number, not 1e+300"},
      {R"({"inner": {"count": 18446744073709551615}})",
       "inner.count is 18446744073709551615, but must be at most 9223372036854775807"},
      {R"({"inner": {"rate": "1"}})", R"(inner.rate must be a number, not the string "1")"},
      {R"({"inner": {"on": 1}})", "inner.on must be true or false, not 1"},
      {R"({"inner": {"kind": 1}})", "inner.kind must be a string, not 1"},
      {R"({"inner": {"kind": {}}})", "inner.kind must be a string, not an object"},
      {R"({"inner": 5})", "inner must be an object, not 5"},
      {R"({"inner": []})", "inner must be an object, not a list"},
      {R"({"path": "a\u0000b"})", "path must not hold a NUL character"},
      {R"({"paths": "a"})", R"(paths must be a list of strings like ["a", "b"], not the string "a")"},
      {R"({"numbers": 1})", "numbers must be a list of numbers like [1, 2], not 1"},
      {R"({"numbers": [1, "2"]})", R"(numbers entry 2 must be a whole number, not the string "2")"},
      {R"({"numbers": [null]})", "numbers entry 1 must be a whole number, not null"},
      {R"({"steps": {}})", "steps must be a list of objects, not an object"},
      {R"({"steps": [3]})", "steps[0] must be an object, not 3"},
      {R"({"steps": [null]})", "steps[0] must be an object, not null"},
  };
  for (const auto& [text, message] : cases) REQUIRE(refusal(folder, text) == "a.json:1: " + message);
}

TEST_CASE("Values out of range or choice are refused", "[config]") {
  const Folder folder;
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"({"inner": {"rate": 1.5}})", "inner.rate is 1.5, but must be above 0 and at most 1"},
      {R"({"inner": {"rate": 0}})", "inner.rate is 0, but must be above 0 and at most 1"},
      {R"({"inner": {"count": 0}})", "inner.count is 0, but must be at least 1"},
      {R"({"inner": {"kind": "hard", "hard_limit": 9}})", "inner.hard_limit is 9, but must be at least 0 and below 9"},
      {R"({"numbers": [1, 10]})", "numbers entry 2 is 10, but must be at least 0 and at most 9"},
      {R"({"inner": {"kind": "sotf"}})",
       R"(inner.kind is "sotf", but must be "soft", "hard" or "harder"; did you mean "soft"?)"},
      {R"({"inner": {"kind": "nothing"}})", R"(inner.kind is "nothing", but must be "soft", "hard" or "harder")"},
      {R"({"names": ["x", "z"]})", R"(names entry 2 is "z", but must be "x" or "y"; did you mean "x"?)"},
      {R"({"device": "cuda"})", R"(device is "cuda", but only "cpu" is there to choose)"},
  };
  for (const auto& [text, message] : cases) REQUIRE(refusal(folder, text) == "a.json:1: " + message);
  REQUIRE(refusal(folder, R"({"inner": {"rate": 1, "count": 1, "kind": "harder"}})") == "no refusal");
}

TEST_CASE("Keys without an effect are refused", "[config]") {
  const Folder folder;
  REQUIRE(refusal(folder, "{\"inner\": {\n\"hard_limit\": 1}}") ==
          "a.json:2: inner.hard_limit has no effect here, only when inner.kind is hard; remove it or set it to null");
  REQUIRE(refusal(folder, R"({"spare": {"kind": "hard", "hard_limit": 1}})") ==
          "a.json:1: spare.kind has no effect here, only when use_spare is true; remove it or set it to null");
  REQUIRE(refusal(folder, R"({"steps": [{"rule": "b", "size": 1}, {"size": 1}]})") ==
          "a.json:1: steps[1].size has no effect here, only when rule is b; remove it or set it to null");
  // The order of keys does not matter, null is no value, and an empty group gives nothing.
  REQUIRE(refusal(folder, R"({"inner": {"hard_limit": 1, "kind": "hard"}})") == "no refusal");
  REQUIRE(refusal(folder, R"({"inner": {"hard_limit": null}, "spare": {}})") == "no refusal");
  // A setting can make a file's key dead, and take it back.
  const std::string file = R"({"inner": {"hard_limit": 1, "kind": "hard"}})";
  REQUIRE(refusal(folder, file, {"inner.kind=soft"}).find("a.json:1: inner.hard_limit has no effect here") == 0);
  REQUIRE(refusal(folder, file, {"inner.kind=soft", "inner.hard_limit=null"}) == "no refusal");
}

TEST_CASE("What is no config file is refused", "[config]") {
  const Folder folder;
  REQUIRE(refusal(folder, "").find("a.json: empty; a config is at least {}") == 0);
  REQUIRE(refusal(folder, " \n\t").find("a.json: empty") == 0);
  REQUIRE(refusal(folder, "[1]") == "a.json:1: a config is a JSON object, not a list");
  REQUIRE(refusal(folder, "3") == "a.json:1: a config is a JSON object, not 3");
  REQUIRE(refusal(folder, "{\n\"inner\": {\n\"rate\": 1,\n}}").find("a.json:4, column 1: no JSON: ") == 0);
  REQUIRE(refusal(folder, "{\"inner\": 1").find("a.json:1, column 12: no JSON: ") == 0);
  REQUIRE(refusal(folder, "{} {}").find("no JSON") != std::string::npos);
  REQUIRE(refusal(folder, "{ // hello\n}").find("(JSON has no comments)") != std::string::npos);
  REQUIRE(refusal(folder, "{\"path\": \"\xff\"}").find("a.json:1") == 0);
  REQUIRE(refusal(folder, std::string("\x00\x01\x02", 3)).find("no JSON") != std::string::npos);
  REQUIRE(refusal(folder, R"({"inner": {"rate": 1e999}})").find("a.json:1") == 0);
  REQUIRE(refusal(folder, std::string(100000, '[')) == "a.json:1: nested deeper than 32");
  REQUIRE(refusal(folder, "{\"inner\": {\"rate\": 1,\n\"on\": true,\n\"rate\": 1}}") ==
          "a.json:3: the key \"rate\" is given twice (first in line 1); keep one of them");

  REQUIRE_THROWS_WITH(load(folder.at("b.json")), folder.at("b.json") + ": no such config file");
  REQUIRE_THROWS_WITH(load(folder.at("")), folder.at("") + ": a folder; give a config file");
  REQUIRE_THROWS_WITH(load(folder.write("large.json", std::string((16 << 20) + 1, ' '))),
                      folder.at("large.json") + ": larger than 16 MiB, which no config is");
}

TEST_CASE("A config can extend another", "[config]") {
  const Folder folder;
  folder.write("base/base.json", R"({"path": "p", "paths": ["p1", "p2"], "inner": {"count": 5, "rate": 0.1}})");
  folder.write("base/middle.json", R"({"extends": "base.json", "inner": {"count": 6}})");
  const std::string file = folder.write(
      "a.json", R"({"extends": "base/middle.json", "paths": ["q"], "inner": {"kind": "harder", "rate": null}})");
  const Loaded loaded = load(file, {"inner.on=false"});
  REQUIRE(loaded.values.path == folder.at("base/p"));
  REQUIRE(loaded.values.paths == std::vector<std::string>{folder.at("q")});
  REQUIRE(loaded.values.inner.count == 6);
  REQUIRE(loaded.values.inner.rate == 0.5);
  REQUIRE(loaded.values.inner.kind == "harder");
  REQUIRE(!loaded.values.inner.on);

  Outer values = loaded.values;
  const nlohmann::json origins = dump_origins(outline_of(values), loaded.given);
  REQUIRE(origins["device"] == "default");
  REQUIRE(origins["path"] == folder.at("base/base.json"));
  REQUIRE(origins["paths"] == file);
  REQUIRE(origins["inner"]["rate"] == "default");
  REQUIRE(origins["inner"]["count"] == folder.at("base/middle.json"));
  REQUIRE(origins["inner"]["on"] == "--set");
  REQUIRE(!origins["inner"].contains("hard_limit"));
  REQUIRE(!origins.contains("spare"));

  // What a base gives is checked even where it is replaced.
  folder.write("wrong.json", R"({"inner": {"count": "five"}})");
  REQUIRE(refusal(folder, R"({"extends": "wrong.json", "inner": {"count": 5}})") ==
          R"(wrong.json:1: inner.count must be a whole number, not the string "five")");
}

TEST_CASE("Wrong extensions are refused", "[config]") {
  const Folder folder;
  REQUIRE(refusal(folder, "{\n\"extends\": \"gone.json\"}") == "a.json:2: extends gone.json, which does not exist");
  REQUIRE(refusal(folder, R"({"extends": 3})") == "a.json:1: extends must be the path of a config, not 3");
  REQUIRE(refusal(folder, R"({"extends": ["b.json"]})") ==
          "a.json:1: extends must be the path of a config, not a list");
  REQUIRE(refusal(folder, R"({"extends": ""})") == "a.json:1: extends is no path");
  REQUIRE(refusal(folder, R"({"extends": "a.json"})") ==
          "a.json:1: configs extend each other in a circle: a.json extends a.json");
  folder.write("c/b.json", R"({"extends": "../a.json"})");
  REQUIRE(refusal(folder, R"({"extends": "c/b.json"})") ==
          "c/b.json:1: configs extend each other in a circle: a.json extends c/b.json extends a.json");
}

TEST_CASE("Settings are JSON or plain strings", "[config]") {
  const Folder folder;
  const std::string file = folder.write("a.json", R"({"steps": [{"rule": "b"}], "numbers": [3]})");
  const Outer values = load(file, {"path=out/x=y", "inner.count=9", "inner.rate=1e-3", "inner.on=false",
                                   "numbers=[4,5]", "inner={\"kind\": \"hard\"}", "steps=[]", "inner.count=10"})
                           .values;
  REQUIRE(values.path == (fs::current_path() / "out/x=y").lexically_normal().string());
  REQUIRE(values.inner.count == 10);
  REQUIRE(values.inner.rate == 1e-3);
  REQUIRE(!values.inner.on);
  REQUIRE(values.inner.kind == "hard");
  REQUIRE(values.numbers == std::vector<int64_t>{4, 5});
  REQUIRE(values.steps.empty());
  REQUIRE(load(file, {"path=12"}).values.path == (fs::current_path() / "12").string());
  REQUIRE(load(file, {"path="}).values.path.empty());
  REQUIRE(load(file, {"path=\"/q\""}).values.path == "/q");
  REQUIRE(load(file, {"numbers=null"}).values.numbers == std::vector<int64_t>{1, 2});

  const std::vector<std::pair<std::string, std::string>> cases = {
      {"inner.count", "a setting is KEY=VALUE, like model.heads=2"},
      {"=3", "a setting is KEY=VALUE, like model.heads=2"},
      {"inner..count=3", "a key is names with dots between, like model.heads"},
      {".inner=3", "a key is names with dots between, like model.heads"},
      {"inner.=3", "a key is names with dots between, like model.heads"},
      {"extends=b.json", "extends can only stand in a config file"},
      {"inner.count=two", R"(inner.count must be a whole number, not the string "two")"},
      {"inner.count=", R"(inner.count must be a whole number, not the string "")"},
      {"inner.on=yes", R"(inner.on must be true or false, not the string "yes")"},
      {"inner.kind=true", "inner.kind must be a string, not true"},
      {"inner.kind=harf", R"(inner.kind is "harf", but must be "soft", "hard" or "harder"; did you mean "hard"?)"},
      {"names=x", R"(names must be a list of strings like ["a", "b"], not the string "x")"},
      {"steps.0.size=3", "steps is a list and can only be set whole"},
      {"steps[0].size=3", "a list can only be set whole"},
      {"inner.count.x=3", "inner.count must be a whole number, not an object"},
      {"inner=3", "inner must be an object, not 3"},
      {R"(inner={"on": true, "on": true})", R"(the key "on" is given twice; keep one of them)"},
      {"inner.hard_limit=3",
       "inner.hard_limit has no effect here, only when inner.kind is hard; remove it or set it to null"},
  };
  for (const auto& [setting, message] : cases)
    REQUIRE(refusal(folder, "{}", {setting}) == "--set " + setting + ": " + message);
  REQUIRE(refusal(folder, "{}", {"path=\xff"}) == "--set: a setting is not valid UTF-8");
}

TEST_CASE("A dump read again gives the same dump", "[config]") {
  const Folder folder;
  const std::string file = folder.write("a.json", R"({"path": "p", "weights": [0.1, 1e-300, 3], "use_spare": true,
    "steps": [{"rule": "b", "size": 7}, {"rule": "a"}], "spare": {"kind": "hard"}, "inner": {"rate": 0.30000000000000004}})");
  Outer first = load(file).values;
  const nlohmann::ordered_json dump = dump_config(outline_of(first));
  REQUIRE(dump["steps"].dump() == R"([{"rule":"b","size":7},{"rule":"a"}])");
  REQUIRE(!dump["inner"].contains("hard_limit"));
  REQUIRE(dump["spare"].contains("hard_limit"));
  Outer second = load(folder.write("sub/b.json", dump.dump(2))).values;
  REQUIRE(dump_config(outline_of(second)).dump() == dump.dump());
}

TEST_CASE("The schema says what the reader accepts", "[config]") {
  Outer defaults;
  const nlohmann::json schema = json_schema(outline_of(defaults), "Test");
  REQUIRE(schema["$schema"] == "https://json-schema.org/draft/2020-12/schema");
  REQUIRE(schema["type"] == "object");
  REQUIRE(schema["additionalProperties"] == false);
  const nlohmann::json& keys = schema["properties"];
  REQUIRE(keys["extends"]["type"] == "string");
  REQUIRE(keys["$schema"]["type"] == "string");
  REQUIRE(keys["inner"]["type"] == nlohmann::json({"object", "null"}));
  REQUIRE(keys["inner"]["additionalProperties"] == false);
  REQUIRE(keys["inner"]["properties"]["rate"] == nlohmann::json({{"type", {"number", "null"}},
                                                                 {"exclusiveMinimum", 0.0},
                                                                 {"maximum", 1.0},
                                                                 {"default", 0.5},
                                                                 {"description", "A rate."}}));
  REQUIRE(keys["inner"]["properties"]["hard_limit"]["description"] == "A limit. Only when inner.kind is hard.");
  REQUIRE(keys["inner"]["properties"]["hard_limit"]["exclusiveMaximum"] == 9.0);
  REQUIRE(keys["inner"]["properties"]["count"]["minimum"].is_number_integer());
  REQUIRE(keys["inner"]["properties"]["kind"]["enum"] == nlohmann::json({"soft", "hard", "harder", nullptr}));
  REQUIRE(keys["numbers"]["items"]["type"] == "integer");
  REQUIRE(keys["numbers"]["items"]["maximum"] == 9);
  REQUIRE(keys["numbers"]["default"] == nlohmann::json({1, 2}));
  REQUIRE(keys["names"]["items"]["enum"] == nlohmann::json({"x", "y"}));
  REQUIRE(keys["steps"]["items"]["additionalProperties"] == false);
  REQUIRE(keys["steps"]["items"]["properties"]["size"]["default"] == 1);
}

TEST_CASE("Damaged config text is read or refused", "[config]") {
  const Folder folder;
  const std::string good = R"({"path": "p", "numbers": [1, 2], "steps": [{"rule": "b", "size": 7}, {}],
    "inner": {"count": 1e3, "kind": "hard", "hard_limit": 2, "on": true}, "names": ["x", "y"]})";
  std::mt19937 random(7);
  int read = 0, refused = 0;
  for (int trial = 0; trial < 3000; ++trial) {
    std::string text = good;
    for (unsigned change = random() % 4 + 1; change > 0; --change) {
      const size_t at = random() % text.size();
      if (const unsigned kind = random() % 3; kind == 0)
        text[at] = static_cast<char>(random());
      else if (kind == 1)
        text.erase(at, random() % 5);
      else
        text.insert(at, text.substr(random() % text.size(), random() % 8));
      if (text.empty()) text = "{";
    }
    auto source = std::make_shared<JsonSource>(JsonSource{"x", "x", "/", true});
    try {
      const std::vector<JsonNode> layers = {parse_json(text, source)};
      Outer values;
      ConfigOutline outline = outline_of(values);
      check_layers(outline, layers);
      assign_values(outline, layers[0]);
      check_dead_keys(outline_of(values), layers[0]);
      ++read;
    } catch (const Error&) {
      ++refused;
    }
  }
  REQUIRE(read > 0);
  REQUIRE(refused > 0);
}

TEST_CASE("The nearest text is one that can be meant", "[config]") {
  REQUIRE(nearest_text("bacth_size", {"batch_tokens", "batch_size"}) == 1);
  REQUIRE(nearest_text("Batch-Size", {"batch_tokens", "batch_size"}) == 1);
  REQUIRE(nearest_text("a", {"b"}) == 0);
  REQUIRE(nearest_text("ab", {"xy"}) == -1);
  REQUIRE(nearest_text("", {}) == -1);
  REQUIRE(nearest_text(std::string(100000, 'a'), {"a"}) == -1);
}

}  // namespace itemloom
