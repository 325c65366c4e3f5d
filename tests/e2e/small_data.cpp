#include "tests/e2e/small_data.h"

#include "tests/support/kernels.h"

namespace itemloom::test {

std::string write_small_run(const TemporaryFolder& folder, const std::string& extra) {
  std::string lines;
  for (int64_t user = 0; user < 120; ++user) {
    lines += "u" + std::to_string(user);
    int64_t item = random_int(1, user, 40);
    const int64_t length = 4 + random_int(2, user, 14);
    for (int64_t place = 0; place < length; ++place) {
      lines += " i" + std::to_string(item);
      item = (item + 1 + random_int(3, user * 100 + place, 2)) % 40;
    }
    lines += "\n";
  }
  write_text(folder.path("sequences.txt"), lines);
  write_text(folder.path("config.json"), R"({
    "data": {"files": ["sequences.txt"], "format": "sequences", "max_length": 12},
    "model": {"hidden_size": 16, "layers": 2, "heads": 2},
    "training": {"epochs": 4, "batch_size": 32, "micro_batch_tokens": 200})" +
                                             std::string(extra.empty() ? "" : ",\n") + extra + "\n}\n");
  return folder.path("config.json");
}

}  // namespace itemloom::test
