// Running the program as a user does.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <vector>

namespace itemloom::test {

using Words = std::vector<std::string>;

// The words of both, one after the other.
Words operator+(Words words, const Words& more);

struct ProcessResult {
  int exit_code = -1;  // 128 + signal when it was killed
  std::string out;
  std::string error;
};

// A child process; its output is collected in files under a temporary folder.
class Process {
 public:
  // Starts `arguments[0]` with the rest as arguments, in `folder` (empty: the current one), with extra "NAME=value"
  // environment entries.
  explicit Process(std::vector<std::string> arguments, const std::string& folder = "",
                   const std::vector<std::string>& environment = {});
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void signal(int number);
  bool running();
  pid_t id() const { return pid_; }
  // The processes it has started that run this program file, oldest first.
  std::vector<pid_t> children(const std::string& program) const;
  // What it has written to standard error so far.
  std::string error_so_far() const;
  ProcessResult wait();

 private:
  pid_t pid_ = -1;
  int status_ = 0;
  bool ended_ = false;
  std::filesystem::path output_;
};

// `itemloom` with these arguments, to its end.
ProcessResult itemloom(std::vector<std::string> arguments, const std::string& folder = "",
                       const std::vector<std::string>& environment = {});

// A folder that is removed at the end of the scope.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  std::string path(const std::string& name = "") const { return name.empty() ? folder_ : folder_ / name; }

 private:
  std::filesystem::path folder_;
};

std::string read_text(const std::string& path);
void write_text(const std::string& path, const std::string& text);

}  // namespace itemloom::test
