// What the program refuses, from the outside: one clear line, the right exit code, and every file as it was before.

#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <functional>
#include <sstream>

#include "tests/e2e/refusals.h"
#include "tests/e2e/small_data.h"
#include "tests/support/catch.h"
#include "tests/support/kernels.h"
#include "train/run_folder.h"

namespace itemloom {
namespace {

namespace fs = std::filesystem;
using test::contents;
using test::differences;
using test::itemloom;
using test::last_line;
using test::operator+;
using test::require_refused;
using test::require_says;
using test::TemporaryFolder;
using test::Words;

std::string table(const std::function<std::string(int64_t line)>& other_row) {
  std::string text = "user,item,time\n";
  for (int64_t line = 2; line < 100; ++line) {
    const std::string other = other_row(line);
    const std::string user = std::to_string(line % 9), item = std::to_string(line % 7);
    text += (other.empty() ? "u" + user + ",i" + item + "," + std::to_string(line) : other) + "\n";
  }
  return text;
}

std::string table_with(int64_t bad_line, const std::string& row) {
  return table([&](int64_t line) { return line == bad_line ? row : ""; });
}

std::string random_bytes(int64_t count) {
  std::string bytes;
  for (int64_t i = 0; i < count; ++i) bytes += static_cast<char>(test::random_int(11, i, 256));
  return bytes;
}

void write_table_config(const TemporaryFolder& folder, const std::string& data = "") {
  test::write_text(folder.path("config.json"), R"({
    "data": {"files": ["rows"], "format": "csv", "columns": {"user": "user", "item": "item", "timestamp": "time"})" +
                                                   data + "},\n    \"training\": {\"threads\": 1}\n}\n");
}

const Words kPrepare = {"prepare", "config.json", "--out", "out.h5"};
const Words kTrain = {"train", "config.json", "--run", "runs/a"};

// A run that is trained once and copied for every case. Copies give the same bits wherever they lie.
const TemporaryFolder& trained_once() {
  static const auto folder = [] {
    auto made = std::make_unique<TemporaryFolder>();
    write_small_run(*made);
    const Words settings = {"--set", "training.threads=1", "--set", "training.epochs=1", "--set", "model.layers=1"};
    const auto train = [&](const std::string& name, const Words& more) {
      const auto result = itemloom(Words{"train", "config.json", "--run", name} + settings + more, made->path());
      INFO(result.error);
      REQUIRE(result.exit_code == 0);
    };
    train("run", {});
    train("other-model", {"--set", "model.hidden_size=8"});
    test::write_text(made->path("sequences.txt"),
                     "u-1 i1 i2 i3 i4 i5\n" + test::read_text(made->path("sequences.txt")));
    train("other-dataset", {});
    return made;
  }();
  return *folder;
}

void copy_run(const TemporaryFolder& folder) {
  write_small_run(folder);
  fs::copy(trained_once().path("run"), folder.path("run"), fs::copy_options::recursive);
}

const Words kResume = {
    "train", "config.json",       "--run", "run",           "--resume", "--set", "training.threads=1",
    "--set", "training.epochs=1", "--set", "model.layers=1"};
const Words kEvaluate = {"evaluate", "--run", "run"};

}  // namespace

TEST_CASE("input that cannot be read is refused", "[e2e][refusals]") {
  struct Case {
    std::string name;
    std::function<void(const std::string& path)> make;
    Words says;
  };
  const auto with = [](const std::string& text) {
    return [text](const std::string& path) { test::write_text(path, text); };
  };
  const std::string sample = test::read_text(ITEMLOOM_SOURCE_DIR "/data/samples/online-retail.csv.xz");
  const Case cases[] = {
      {"missing file", [](const std::string&) {}, {"rows: no such file"}},
      {"directory", [](const std::string& path) { fs::create_directory(path); }, {"rows is a directory, not a file"}},
      {"empty file", with(""), {"rows is empty"}},
      {"blank lines only", with("\n\n\r\n"), {"rows holds nothing but blank lines"}},
      {"header only", with("user,item,time\n"), {"data.files hold no rows"}},
      {"binary garbage", with(random_bytes(5000)), {"rows is no text file", "is NUL"}},
      {"truncated .xz", with(sample.substr(0, 20000)), {"rows: the compressed data is truncated or corrupt"}},
      {"unknown column",
       with("user,thing,time\nu,i,1\n"),
       {"data.columns.item", "rows has no column \"item\"", "thing"}},
      {"too few columns",
       with(table_with(7, "u1,i1")),
       {"1 row cannot be read: ", "rows:7: 2 fields where 3 are expected", "data.on_bad_row"}},
      {"many rows with too few columns",
       with(table([](int64_t line) { return line >= 20 && line < 32 ? "u1" : ""; })),
       {"12 rows cannot be read: ", "rows:20: 1 field where 3 are expected", "rows:24: ", "; and 7 more"}},
      {"non-numeric timestamp", with(table_with(3, "u1,i1,yesterday")), {"rows:3: the timestamp is neither a number"}},
      {"invalid UTF-8", with(table_with(4, "u1,i\xFF,5")), {"rows:4: invalid UTF-8 at byte 5"}},
      {"empty user", with(table_with(5, ",i1,5")), {"rows:5: the user is empty"}},
  };
  for (const Case& one : cases) {
    INFO(one.name);
    TemporaryFolder folder;
    write_table_config(folder);
    one.make(folder.path("rows"));
    test::write_text(folder.path("out.h5"), "an older file");
    require_refused(folder, kPrepare, one.says);
    require_refused(folder, kTrain, one.says);
  }
}

TEST_CASE("at most five unreadable rows are shown, and they can be skipped", "[e2e][refusals]") {
  TemporaryFolder folder;
  write_table_config(folder);
  test::write_text(folder.path("rows"), table([](int64_t line) { return line >= 20 && line < 32 ? "u1" : ""; }));
  const auto refused = itemloom(kPrepare, folder.path());
  REQUIRE(refused.exit_code == 1);
  REQUIRE(refused.error.find("rows:25: ") == std::string::npos);
  const auto skipped = itemloom(kPrepare + Words{"--set", "data.on_bad_row=skip"}, folder.path());
  INFO(skipped.error);
  REQUIRE(skipped.exit_code == 0);
  REQUIRE(skipped.error.find("12 dropped: cannot be read") != std::string::npos);
  REQUIRE(skipped.error.find("rows:24: ") != std::string::npos);
  REQUIRE(skipped.error.find("rows:25: ") == std::string::npos);
  REQUIRE(fs::exists(folder.path("out.h5")));
}

TEST_CASE("a vocabulary that the filters have emptied is refused", "[e2e][refusals]") {
  const std::pair<std::string, Words> cases[] = {
      {R"({"rule": "match", "column": "item", "pattern": "^i"})", {"of 98 rows", "\"match\" dropped most, 98", "^i"}},
      {R"({"rule": "k_core", "users": 500})", {"of 98 rows", "\"k_core\" dropped most, 98", "data.filters"}}};
  for (const auto& [filter, says] : cases) {
    TemporaryFolder folder;
    write_table_config(folder, ", \"filters\": [" + filter + "]");
    test::write_text(folder.path("rows"), table([](int64_t) { return ""; }));
    require_refused(folder, kPrepare, Words{"no interaction is left"} + says);
    require_refused(folder, kTrain, Words{"no interaction is left"} + says);
  }
}

TEST_CASE("wrong configs are refused by key", "[e2e][refusals]") {
  TemporaryFolder folder;
  write_small_run(folder);
  const std::pair<std::string, Words> settings[] = {
      {"model.colour=3", {"--set model.colour=3", "model.colour", "is no key"}},
      {"model.hidden_sise=3", {"model.hidden_sise is no key", "did you mean model.hidden_size?"}},
      {"training.learning_rate=1", {"training.learning_rate is no key", "optimizer.learning_rate"}},
      {"model.heads=two", {"model.heads must be a whole number, not the string \"two\""}},
      {"data.files=7", {"data.files must be"}},
      {"data.columns.item=x", {"data.columns.item has no effect here", "data.format"}},
      {"model.heads=3", {"model.heads 3 does not divide model.hidden_size 16"}},
      {"model.dropout=2", {"model.dropout is 2, but must be"}},
      {"optimizer.name=adamm", {"optimizer.name", "adamm", "adam"}},
      {"evaluation.metrics=[\"ndgc@10\"]", {"ndgc@10"}},
      {"model.heads", {"a setting is KEY=VALUE"}},
  };
  for (const auto& [setting, says] : settings) require_refused(folder, kTrain + Words{"--set", setting}, says);

  const std::string good = test::read_text(folder.path("config.json"));
  const auto refuse_text = [&](const std::string& text, const Words& says) {
    test::write_text(folder.path("config.json"), text);
    require_refused(folder, kTrain, says);
  };
  refuse_text("", {"config.json: empty"});
  refuse_text(good.substr(0, good.size() / 2), {"config.json:", "no JSON"});
  refuse_text(random_bytes(300), {"config.json:1", "no JSON"});
  refuse_text("{\n\"model\": {\n\"head\": 2}}", {"config.json:3", "model.head is no key", "did you mean model.heads?"});
  refuse_text("{\n\"model\": {\"heads\": true}}", {"config.json:2", "model.heads must be a whole number"});
  fs::remove(folder.path("config.json"));
  require_refused(folder, kTrain, {"config.json: no such config file"});
  fs::create_directory(folder.path("config.json"));
  require_refused(folder, kTrain, {"config.json: a folder"});
}

TEST_CASE("wrong usage is one line and exit code 2", "[e2e][refusals]") {
  TemporaryFolder folder;
  write_small_run(folder);
  const std::pair<Words, Words> cases[] = {
      {{}, {"a verb is missing", "itemloom --help"}},
      {{"trian", "config.json"}, {"there is no verb trian; did you mean train?"}},
      {{"frobnicate"}, {"there is no verb frobnicate"}},
      {{"config"}, {"a verb is missing", "itemloom config --help"}},
      {{"config", "shema"}, {"there is no verb shema; did you mean schema?"}},
      {{"train", "config.json"}, {"--run is required", "itemloom train --help"}},
      {{"train", "--run", "a"}, {"config is required", "itemloom train --help"}},
      {kTrain + Words{"--verbosity"}, {"--verbosity", "itemloom train --help"}},
      {{"train", "config.json", "--run"}, {"--run", "itemloom train --help"}},
      {{"prepare", "config.json"}, {"--out is required"}},
      {{"evaluate", "--run", "a", "--split", "training"}, {"--split", "training", "validation"}},
      {{"neighbors", "--run", "a", "--item", "i1", "--top", "0"}, {"--top"}},
      {{"export", "--run", "a", "--out", "b", "--format", "csv", "--binary"}, {"--binary", "word2vec"}},
      {{"export", "--run", "a", "--out", "b", "--format", "npy", "--device", "cpu"}, {"--device", "--format h5"}},
  };
  for (const auto& [arguments, says] : cases) require_refused(folder, arguments, says, 2);
}

TEST_CASE("places that cannot be written are refused", "[e2e][refusals]") {
  TemporaryFolder folder;
  copy_run(folder);
  const Words train = {"train", "config.json", "--run"}, out = {"prepare", "config.json", "--out"};
  const Words answer = {"export", "--run", "run", "--out"};
  require_refused(folder, train + Words{"run"}, {"run already holds a run", "--resume"});
  require_refused(folder, train + Words{"config.json"}, {"cannot create the folder config.json", "is a file"});
  require_refused(folder, train + Words{"config.json/deep/run"}, {"cannot create the folder", "config.json is a file"});
  require_refused(folder, train + Words{"/proc/itemloom/run"}, {"/proc/itemloom/run"});
  require_refused(folder, train + Words{""}, {"empty name"});
  require_refused(folder, out + Words{"config.json/x.h5"}, {"cannot write config.json/x.h5"});
  require_refused(folder, out + Words{"nowhere/x.h5"}, {"the folder nowhere does not exist"});
  require_refused(folder, out + Words{"run"}, {"cannot write run: it is a folder"});
  for (const char* format : {"h5", "csv", "word2vec", "npy"}) {
    require_refused(folder, answer + Words{"config.json/x", "--format", format}, {"config.json/x"});
  }
  require_refused(folder, answer + Words{"nowhere/x.h5"}, {"the folder nowhere does not exist"});
}

TEST_CASE("places that may not be written to are refused", "[e2e][refusals]") {
  TemporaryFolder folder;
  copy_run(folder);
  // Permissions do not bind root, for whom the program is run as somebody else.
  Words somebody;
  if (geteuid() == 0) {
    somebody = {"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"};
    fs::permissions(folder.path(), fs::perms(0755));
  }
  const auto as_somebody = [&](const Words& arguments) {
    return test::Process(somebody + Words{ITEMLOOM_BINARY} + arguments, folder.path()).wait();
  };
  if (as_somebody({"--version"}).exit_code != 0) {
    WARN("skipped: there is no setpriv, or others may not run the program");
    return;
  }
  fs::create_directory(folder.path("closed"));
  const auto before = contents(folder);
  for (const char* name : {"", "closed", "run"}) fs::permissions(folder.path(name), fs::perms(0555));
  const Words train = {"train", "config.json", "--run"}, prepare = {"prepare", "config.json", "--out"};
  const Words answer = {"export", "--run", "run", "--out"};
  const std::pair<Words, Words> cases[] = {
      {train + Words{"new/deep"}, {"cannot write to the folder new/deep: " + folder.path() + ": Permission denied"}},
      {train + Words{"closed"},
       {"cannot write to the folder closed: " + folder.path("closed") + ": Permission denied"}},
      {kResume, {"cannot write run/config.origins.json: Permission denied"}},
      {prepare + Words{"out.h5"}, {"cannot write out.h5: Permission denied"}},
      {answer + Words{"closed/out.h5"}, {"cannot write closed/out.h5: Permission denied"}},
      {answer + Words{"out.csv", "--format", "csv"}, {"cannot write out.csv: Permission denied"}},
      {answer + Words{"out", "--format", "npy"}, {"cannot create the folder out: Permission denied"}},
      {answer + Words{"closed", "--format", "npy"}, {"cannot write closed/embedding.npy: Permission denied"}}};
  for (const auto& [arguments, says] : cases) {
    const auto result = as_somebody(arguments);
    INFO(result.error);
    REQUIRE(result.exit_code == 1);
    REQUIRE(std::count(result.error.begin(), result.error.end(), '\n') == 1);
    require_says(result.error, says);
  }
  for (const char* name : {"", "closed", "run"}) fs::permissions(folder.path(name), fs::perms(0755));
  REQUIRE(differences(before, contents(folder)) == Words());
}

TEST_CASE("a warm-up that the run does not reach the end of is refused", "[e2e][refusals]") {
  TemporaryFolder folder;
  write_small_run(folder);  // 120 sequences in batches of 32: 4 steps an epoch
  const Words train = kTrain + Words{"--set", "training.threads=1", "--set", "training.epochs=2", "--set"};
  require_refused(folder, train + Words{"optimizer.schedule.warmup_steps=9"},
                  {"optimizer.schedule.warmup_steps 9 is more than the 8 steps of the run", "training.epochs"});
  require_refused(folder, train + Words{"optimizer.schedule.warmup_steps=9", "--set", "optimizer.schedule.name=cosine"},
                  {"optimizer.schedule.warmup_steps 9 is more than the 8 steps of the run"});
  REQUIRE(itemloom(train + Words{"optimizer.schedule.warmup_steps=8"}, folder.path()).exit_code == 0);
}

TEST_CASE("a folder in which another train runs is refused", "[e2e][refusals]") {
  TemporaryFolder folder;
  copy_run(folder);
  fs::create_directory(folder.path("empty"));
  const Words fresh = {"train", "config.json", "--run", "empty", "--set", "training.threads=1"};
  const Words longer = kResume + Words{"--set", "training.epochs=2"};
  {
    const FolderLock run(folder.path("run")), empty(folder.path("empty"));
    require_refused(folder, longer, {"another itemloom train is running in run;"});
    require_refused(folder, fresh, {"another itemloom train is running in empty;"});
    REQUIRE_THROWS_AS(FolderLock(folder.path("run")), Error);
  }
  REQUIRE(itemloom(longer, folder.path()).exit_code == 0);
  REQUIRE(itemloom(fresh, folder.path()).exit_code == 0);

  // While it runs, a run holds its folder; when it is killed, it lets go.
  test::Process process({ITEMLOOM_BINARY, "train", "config.json", "--run", "long", "--set", "training.epochs=100000"},
                        folder.path());
  while (process.running() && !fs::exists(folder.path("long/checkpoint-last.h5"))) usleep(2000);
  const auto second = itemloom({"train", "config.json", "--run", "long", "--resume"}, folder.path());
  REQUIRE(second.exit_code == 1);
  require_says(second.error, {"another itemloom train is running in long;"});
  REQUIRE(process.running());
  process.signal(SIGKILL);
  process.wait();
  const FolderLock free(folder.path("long"));
}

TEST_CASE("a full disk is one line, and nothing half written stays", "[e2e][refusals]") {
  TemporaryFolder folder;
  copy_run(folder);
  test::write_text(folder.path("out.h5"), "an older file");
  // Writes beyond a limit of the process fail as those on a full disk do.
  const auto limited = [&](int kibibytes, const std::string& arguments) {
    const std::string limit = "ulimit -f " + std::to_string(kibibytes) + " && exec ";
    return test::Process({"bash", "-c", limit + ITEMLOOM_BINARY + " " + arguments}, folder.path()).wait();
  };
  const auto before = contents(folder);
  for (const char* arguments :
       {"prepare config.json --out out.h5", "train config.json --run runs/a --set training.threads=1",
        "export --run run --out out.h5", "export --run run --out out.h5 --format csv"}) {
    INFO(arguments);
    const auto result = limited(4, arguments);
    INFO(result.error);
    REQUIRE(result.exit_code == 1);
    REQUIRE(std::count(result.error.begin(), result.error.end(), '\n') == 1);
    require_says(result.error, {"cannot write ", "File too large"});
    REQUIRE(differences(before, contents(folder)) == Words());
  }

  // The dataset fits, the checkpoint does not: what is left is a run that can go on.
  const std::string train = "train config.json --run runs/a --set training.threads=1 --set training.epochs=1";
  const auto stopped = limited(64, train);
  INFO(stopped.error);
  REQUIRE(stopped.exit_code == 1);
  require_says(last_line(stopped.error), {"cannot write ", "checkpoint", "File too large"});
  REQUIRE(stopped.error.find("HDF5-DIAG") == std::string::npos);
  for (const auto& [name, content] : contents(folder)) {
    INFO(name);
    REQUIRE(name.find(".tmp-") == std::string::npos);
  }
  REQUIRE(!fs::exists(folder.path("runs/a/checkpoint-last.h5")));
  const auto resumed = limited(10000, train + " --resume");
  INFO(resumed.error);
  REQUIRE(resumed.exit_code == 0);
}

TEST_CASE("a full disk leaves no part of an export of several files", "[e2e][refusals]") {
  TemporaryFolder folder;
  write_small_run(folder);
  // Ids so long that the embeddings fit under the limit and the file of ids does not.
  std::string lines;
  for (int64_t user = 0; user < 40; ++user) {
    lines += "u" + std::to_string(user);
    for (int64_t place = 0; place < 5; ++place) {
      lines += " " + std::string(200, 'i') + std::to_string((user + place) % 30);
    }
    lines += "\n";
  }
  test::write_text(folder.path("sequences.txt"), lines);
  const auto trained = itemloom(kTrain + Words{"--set", "training.epochs=1"}, folder.path());
  INFO(trained.error);
  REQUIRE(trained.exit_code == 0);
  fs::create_directory(folder.path("older"));
  test::write_text(folder.path("older/embedding.npy"), "of an earlier export");
  const auto before = contents(folder);
  for (const std::string out : {"new/deep", "older"}) {
    const auto result =
        test::Process(
            {"bash", "-c", "ulimit -f 4 && exec " ITEMLOOM_BINARY " export --run runs/a --format npy --out " + out},
            folder.path())
            .wait();
    REQUIRE(result.exit_code == 1);
    require_says(result.error, {"cannot write " + out + "/ids.txt: File too large"});
    REQUIRE(differences(before, contents(folder)) == Words());
  }
  const auto exported = itemloom({"export", "--run", "runs/a", "--format", "npy", "--out", "older"}, folder.path());
  REQUIRE(exported.exit_code == 0);
  REQUIRE(test::read_text(folder.path("older/embedding.npy")).rfind("\x93NUMPY", 0) == 0);
}

TEST_CASE("ids that would be one word of word2vec are refused", "[e2e][refusals]") {
  TemporaryFolder folder;
  write_table_config(folder);
  const auto train_with = [&](const std::string& id, const std::string& run) {
    test::write_text(folder.path("rows"), table([&](int64_t line) {
                       return line % 7 == 3   ? "u" + std::to_string(line % 9) + "," + id + "," + std::to_string(line)
                              : line % 7 == 4 ? "u" + std::to_string(line % 9) + ",a b," + std::to_string(line)
                                              : "";
                     }));
    const auto result = itemloom({"train", "config.json", "--run", run, "--set", "training.epochs=1"}, folder.path());
    INFO(result.error);
    REQUIRE(result.exit_code == 0);
  };
  train_with("a_b", "same");
  train_with("a_c", "other");
  const auto command = [](const std::string& run, const std::string& format) {
    return Words{"export", "--run", run, "--out", "out", "--format", format};
  };
  require_refused(folder, command("same", "word2vec"),
                  {"\"a_b\" and \"a b\" would both be the word \"a_b\"", "--format h5, npy or csv"});
  require_refused(folder, command("same", "word2vec") + Words{"--binary"}, {"\"a_b\" and \"a b\""});
  REQUIRE(itemloom(command("same", "csv"), folder.path()).exit_code == 0);
  REQUIRE(itemloom(command("other", "word2vec"), folder.path()).exit_code == 0);
  const std::string words = test::read_text(folder.path("out"));
  REQUIRE(words.find("\na_b ") != std::string::npos);
  REQUIRE(words.find("\na_c ") != std::string::npos);
}

TEST_CASE("an answer that nobody could take is an error", "[e2e][refusals]") {
  TemporaryFolder folder;
  copy_run(folder);
  const auto result =
      test::Process({"bash", "-c", "exec " ITEMLOOM_BINARY " evaluate --run run --json > /dev/full"}, folder.path())
          .wait();
  INFO(result.error);
  REQUIRE(result.exit_code == 1);
  require_says(last_line(result.error), {"No space left on device"});
}

TEST_CASE("what is no run, or another one, is refused", "[e2e][refusals]") {
  TemporaryFolder folder;
  copy_run(folder);
  require_refused(folder, {"evaluate", "--run", "nothing"}, {"nothing holds no run"});
  require_refused(folder, kTrain + Words{"--resume"}, {"--resume: runs/a holds no run"});
  require_refused(
      folder, kResume + Words{"--set", "optimizer.learning_rate=0.5"},
      {"--resume: run was begun with another config", "optimizer.learning_rate is 0.5 here and 0.001 there"});
  require_refused(folder, kResume + Words{"--set", "model.hidden_size=32"},
                  {"model.hidden_size is 32 here and 16 there"});
  // Values that may change are passed over.
  require_refused(
      folder,
      kResume + Words{"--set", "data.files=[\"/other\"]", "--set", "evaluation.batch_size=8", "--set",
                      "training.epochs=9", "--set", "training.validate_every=3", "--set", "optimizer.weight_decay=0.5"},
      {"another config: optimizer.weight_decay is 0.5 here and 0.01 there;"});
  test::write_text(folder.path("run/config.resolved.json"), "{");
  require_refused(folder, kEvaluate, {"run/config.resolved.json", "no JSON"});
}

TEST_CASE("unknown item ids are refused with the nearest", "[e2e][refusals]") {
  TemporaryFolder folder;
  copy_run(folder);
  const std::pair<Words, Words> cases[] = {
      {{"neighbors", "--run", "run", "--item", "i77"}, {"no item has the id \"i77\"", "Nearest: ", "\"i7\""}},
      {{"associate", "--run", "run", "--item", "I12"}, {"no item has the id \"I12\"", "\"i12\""}},
      {{"associate", "--run", "run", "--item", "i1", "--item", "i123"}, {"\"i123\"", "\"i12\""}},
      {{"recommend", "--run", "run", "--history", "i1,i2,39"}, {"no item has the id \"39\"", "\"i39\""}},
      {{"neighbors", "--run", "run", "--item", "teapot", "--json"}, {"no item has the id \"teapot\""}}};
  for (const auto& [arguments, says] : cases) require_refused(folder, arguments, says);
}

TEST_CASE("damaged and foreign checkpoints and datasets are refused", "[e2e][refusals]") {
  const auto flip = [](const std::string& path, size_t at) {
    std::string bytes = test::read_text(path);
    bytes[std::min(at, bytes.size() - 1)] ^= 4;
    test::write_text(path, bytes);
  };
  const auto replace = [](const std::string& path, const std::string& run) {
    fs::copy_file(trained_once().path(run) + "/" + fs::path(path).filename().string(), path,
                  fs::copy_options::overwrite_existing);
  };
  struct Case {
    std::string name;
    std::function<void(const std::string& path)> harm;
    Words checkpoint_says, dataset_says;
  };
  const Case cases[] = {
      {"empty", [](const std::string& path) { fs::resize_file(path, 0); }, {"not a checkpoint"}, {"is empty"}},
      {"cut short", [](const std::string& path) { fs::resize_file(path, 3000); }, {"is damaged"}, {"is damaged"}},
      {"last byte missing",
       [](const std::string& path) { fs::resize_file(path, fs::file_size(path) - 1); },
       {"is damaged"},
       {"is damaged"}},
      {"bit flipped", [&](const std::string& path) { flip(path, 4000); }, {"is damaged"}, {"is damaged"}},
      {"last bit flipped", [&](const std::string& path) { flip(path, SIZE_MAX); }, {"is damaged"}, {"is damaged"}},
      {"text",
       [](const std::string& path) { test::write_text(path, "hello\n"); },
       {"not a checkpoint"},
       {"is not an HDF5 file"}},
      {"of another model", [&](const std::string& path) { replace(path, "other-model"); }, {"of another model"}, {}},
      {"of another dataset",
       [&](const std::string& path) { replace(path, "other-dataset"); },
       {"was trained on another dataset"},
       {"was trained on another dataset"}},
  };
  for (const Case& one : cases) {
    INFO(one.name);
    const std::tuple<const char*, Words, Words> uses[] = {{"run/checkpoint-last.h5", kResume, one.checkpoint_says},
                                                          {"run/checkpoint-best.h5", kEvaluate, one.checkpoint_says},
                                                          {"run/dataset.h5", kResume, one.dataset_says},
                                                          {"run/dataset.h5", kEvaluate, one.dataset_says}};
    for (const auto& [file, command, says] : uses) {
      if (says.empty()) continue;
      TemporaryFolder folder;
      copy_run(folder);
      one.harm(folder.path(file));
      const std::string blamed = says.front() == "was trained on another dataset" ? "run/checkpoint-" : file;
      require_refused(folder, command, Words{blamed} + says);
    }
  }
  TemporaryFolder folder;
  copy_run(folder);
  fs::copy_file(folder.path("run/dataset.h5"), folder.path("run/checkpoint-best.h5"),
                fs::copy_options::overwrite_existing);
  require_refused(folder, kEvaluate, {"run/checkpoint-best.h5 is an itemloom dataset, a checkpoint was expected"});
  fs::remove(folder.path("run/checkpoint-best.h5"));
  for (const Words& answer : {Words{"evaluate"}, Words{"export", "--out", "o.h5"}, Words{"neighbors", "--item", "i1"},
                              Words{"associate", "--item", "i1"}, Words{"recommend", "--history", "i1"}}) {
    require_refused(folder, answer + Words{"--run", "run", "--checkpoint", "best"},
                    {"--checkpoint best: there is no run/checkpoint-best.h5"});
  }
  require_refused(folder, kEvaluate + Words{"--checkpoint", "run/checkpoints/best-epoch-000009.h5"},
                  {"--checkpoint: there is no file run/checkpoints/best-epoch-000009.h5"});
  require_refused(folder, kEvaluate + Words{"--checkpoint", "run/dataset.h5"},
                  {"run/dataset.h5 is an itemloom dataset, a checkpoint was expected"});
  require_refused(folder, kEvaluate + Words{"--checkpoint", "run"}, {"run: it is a folder"});
  fs::remove(folder.path("run/checkpoint-last.h5"));
  require_refused(folder, kEvaluate, {"run holds no checkpoint yet"});
}

TEST_CASE("files that are not ours are not inspected", "[e2e][refusals]") {
  TemporaryFolder folder;
  write_small_run(folder);
  test::write_text(folder.path("empty"), "");
  require_refused(folder, {"inspect", "nothing.h5"}, {"nothing.h5", "No such file"});
  require_refused(folder, {"inspect", "."}, {"it is a folder"});
  require_refused(folder, {"inspect", "empty"}, {"empty is empty"});
  require_refused(folder, {"inspect", "config.json", "--json"}, {"config.json is not an HDF5 file"});
}

TEST_CASE("a loss that is not finite ends the run with a clear message", "[e2e][refusals]") {
  TemporaryFolder folder;
  write_small_run(folder);
  const Words settings = {"--set", "training.threads=1",    "--set", "optimizer.learning_rate=1e30",
                          "--set", "optimizer.clip_norm=0", "--set", "training.max_skipped_steps=2"};
  const auto result = itemloom(kTrain + settings, folder.path());
  INFO(result.error);
  REQUIRE(result.exit_code == 1);
  require_says(last_line(result.error),
               {"the loss or its gradient was not finite 3 steps in a row", "training.max_skipped_steps is 2",
                "optimizer.learning_rate", "No state was saved before"});
  std::istringstream lines(result.error);
  int64_t warnings = 0;
  for (std::string line; std::getline(lines, line);) warnings += line.find("was skipped") != std::string::npos;
  REQUIRE(warnings == 3);
  REQUIRE(!fs::exists(folder.path("runs/a/checkpoint-last.h5")));
}

TEST_CASE("device cpu with a precision of GPUs is refused before anything is written", "[e2e][refusals]") {
  const TemporaryFolder folder;
  write_table_config(folder);
  test::write_text(folder.path("rows"), table([](int64_t) { return ""; }));
  for (const std::string precision : {"bf16", "tf32"}) {
    require_refused(folder, kTrain + Words{"--set", "training.precision=" + precision},
                    {"training.precision is " + precision, "device cpu computes in fp32 only"});
  }
  require_refused(folder, kTrain + Words{"--set", "training.gradient_exchange=bf16"},
                  {"training.gradient_exchange is bf16", "on device cpu gradients travel in fp32 only"});
  require_refused(folder, kTrain + Words{"--set", "training.precision=fp16"},
                  {"training.precision is \"fp16\"", "\"fp32\", \"tf32\" or \"bf16\""});
}

#ifndef ITEMLOOM_CUDA
TEST_CASE("device cuda is refused by a program without CUDA before anything is written", "[e2e][refusals]") {
  const TemporaryFolder folder;
  write_table_config(folder);
  test::write_text(folder.path("rows"), table([](int64_t) { return ""; }));
  require_refused(folder, kTrain + Words{"--set", "device=cuda"}, {"device is cuda", "built without CUDA"});
  require_refused(folder, kTrain + Words{"--set", "device=cuda", "--set", "training.bitwise_across_ranks=true"},
                  {"training.bitwise_across_ranks", "device cuda"});
  require_refused(folder, kTrain + Words{"--set", "device=cuda", "--set", "model.hidden_size=512"},
                  {"model.heads 2", "heads of 256", "up to 128"});
}

TEST_CASE("questions on a GPU are refused by a program without CUDA", "[e2e][refusals]") {
  TemporaryFolder folder;
  copy_run(folder);
  for (const Words& question : {Words{"evaluate"}, Words{"export", "--out", "o.h5"}, Words{"neighbors", "--item", "i1"},
                                Words{"associate", "--item", "i1"}, Words{"recommend", "--history", "i1"}}) {
    require_refused(folder, question + Words{"--run", "run", "--device", "cuda"},
                    {"device is cuda", "built without CUDA"});
  }
}
#endif

}  // namespace itemloom
