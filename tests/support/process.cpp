#include "tests/support/process.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "core/check.h"

namespace itemloom::test {

std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  CHECK(file, "cannot read ", path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

void write_text(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  CHECK(file.flush(), "cannot write ", path);
}

TemporaryFolder::TemporaryFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "itemloom-test-XXXXXX").string();
  CHECK(mkdtemp(name.data()), "cannot make ", name);
  folder_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

Words operator+(Words words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

Process::Process(std::vector<std::string> arguments, const std::string& folder,
                 const std::vector<std::string>& environment) {
  std::string name = (std::filesystem::temp_directory_path() / "itemloom-output-XXXXXX").string();
  CHECK(mkdtemp(name.data()), "cannot make ", name);
  output_ = name;
  const std::string out = output_ / "out", error = output_ / "error";
  std::vector<char*> pointers;
  for (std::string& argument : arguments) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  pid_ = fork();
  CHECK(pid_ >= 0, "cannot start a process");
  if (pid_ > 0) return;
  for (const std::string& entry : environment) putenv(const_cast<char*>(entry.c_str()));
  dup2(open("/dev/null", O_RDONLY), 0);
  dup2(open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), 1);
  dup2(open(error.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), 2);
  if (!folder.empty() && chdir(folder.c_str()) != 0) _exit(126);
  execvp(pointers[0], pointers.data());
  _exit(127);
}

Process::~Process() {
  if (!ended_) {
    signal(SIGKILL);
    waitpid(pid_, &status_, 0);
  }
  std::error_code ignored;
  std::filesystem::remove_all(output_, ignored);
}

void Process::signal(int number) {
  if (running()) kill(pid_, number);
}

bool Process::running() {
  if (!ended_ && waitpid(pid_, &status_, WNOHANG) == pid_) ended_ = true;
  return !ended_;
}

std::vector<pid_t> Process::children(const std::string& program) const {
  std::vector<pid_t> found;
  std::ifstream list(join_message("/proc/", pid_, "/task/", pid_, "/children"));
  for (pid_t child = 0; list >> child;) {
    std::error_code error;
    if (std::filesystem::read_symlink(join_message("/proc/", child, "/exe"), error) == program) found.push_back(child);
  }
  return found;
}

std::string Process::error_so_far() const {
  return std::filesystem::exists(output_ / "error") ? read_text(output_ / "error") : std::string();
}

ProcessResult Process::wait() {
  if (!ended_) waitpid(pid_, &status_, 0);
  ended_ = true;
  ProcessResult result;
  result.exit_code = WIFEXITED(status_) ? WEXITSTATUS(status_) : 128 + WTERMSIG(status_);
  result.out = read_text(output_ / "out");
  result.error = read_text(output_ / "error");
  return result;
}

ProcessResult itemloom(std::vector<std::string> arguments, const std::string& folder,
                       const std::vector<std::string>& environment) {
  arguments.insert(arguments.begin(), ITEMLOOM_BINARY);
  return Process(std::move(arguments), folder, environment).wait();
}

}  // namespace itemloom::test
