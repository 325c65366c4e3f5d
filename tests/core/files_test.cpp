#include "core/files.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "tests/support/catch.h"
#include "tests/support/full_disk.h"
#include "tests/support/process.h"

namespace itemloom {
namespace {

using Catch::Matchers::Contains;
using Catch::Matchers::Equals;
using test::TemporaryFolder;

int64_t entries(const std::string& folder) {
  return std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator());
}

TEST_CASE("a file written aside appears when it is committed", "[files]") {
  TemporaryFolder folder;
  const std::string path = folder.path("out.bin");
  test::write_text(path, "old");
  std::string expected;
  {
    AsideFile file(path);
    // Pieces below, at and above the buffer's size.
    for (const size_t size :
         {size_t{1}, size_t{0}, size_t{1} << 20, (size_t{1} << 20) - 1, size_t{3} << 20, size_t{7}}) {
      const std::string piece(size, static_cast<char>('a' + size % 23));
      file.write(piece);
      expected += piece;
    }
    REQUIRE(read_whole_file(path) == "old");
    REQUIRE(entries(folder.path()) == 2);
    file.commit();
    REQUIRE(read_whole_file(path) == expected);
    REQUIRE_THROWS_AS(file.commit(), Error);
  }
  REQUIRE(read_whole_file(path) == expected);
  REQUIRE(entries(folder.path()) == 1);
  write_whole_file(path, "");
  REQUIRE(read_whole_file(path).empty());
}

TEST_CASE("a file in the current folder has no folder in its name", "[files]") {
  TemporaryFolder folder;
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  write_whole_file("plain.txt", "x");
  const std::string text = read_whole_file("plain.txt");
  std::filesystem::current_path(before);
  REQUIRE(text == "x");
}

TEST_CASE("an exception before the commit leaves the old file and no temporary", "[files]") {
  TemporaryFolder folder;
  const std::string path = folder.path("out.bin");
  test::write_text(path, "old");
  const auto interrupted = [&] {
    AsideFile file(path);
    file.write("new");
    fail("something else went wrong");
  };
  REQUIRE_THROWS_WITH(interrupted(), "something else went wrong");
  REQUIRE(read_whole_file(path) == "old");
  REQUIRE(entries(folder.path()) == 1);
}

TEST_CASE("a process killed before the commit leaves the old file", "[files]") {
  TemporaryFolder folder;
  const std::string path = folder.path("out.bin");
  test::write_text(path, "old");
  const pid_t child = fork();
  if (child == 0) {
    AsideFile file(path);
    file.write(std::string(size_t{2} << 20, 'n'));
    kill(getpid(), SIGKILL);
  }
  int status = 0;
  waitpid(child, &status, 0);
  REQUIRE(WIFSIGNALED(status));
  REQUIRE(read_whole_file(path) == "old");
  REQUIRE(entries(folder.path()) == 2);
  test::write_text(folder.path("kept.tmp-x1"), "not a temporary of ours");
  test::write_text(folder.path("kept.tmp-"), "nor this");
  remove_leftovers(folder.path());
  REQUIRE(entries(folder.path()) == 3);
  remove_leftovers(folder.path("missing"));
}

TEST_CASE("a new file clears away what killed writers of it have left, and nothing else", "[files]") {
  TemporaryFolder folder;
  // No process has the first number, process 1 always is.
  const std::string dead = folder.path("out.bin.tmp-2147483647"), alive = folder.path("out.bin.tmp-1");
  const std::string others[] = {alive, folder.path("other.bin.tmp-2147483647"), folder.path("out.bin.tmp-"),
                                folder.path("out.bin.tmp-2147483647x"), folder.path("out.bin.old")};
  test::write_text(dead, "x");
  for (const std::string& other : others) test::write_text(other, "x");
  write_whole_file(folder.path("out.bin"), "new");
  REQUIRE(!std::filesystem::exists(dead));
  for (const std::string& other : others) {
    INFO(other);
    REQUIRE(std::filesystem::exists(other));
  }
}

TEST_CASE("a full disk is named together with the file", "[files]") {
  TemporaryFolder folder;
  const std::string path = folder.path("out.bin");
  test::write_text(path, "old");
  const std::string message =
      test::message_on_full_disk(100000, [&] { write_whole_file(path, std::string(200000, 'n')); });
  REQUIRE(message == "cannot write " + path + ": File too large");
  REQUIRE(read_whole_file(path) == "old");
  REQUIRE(entries(folder.path()) == 1);
}

TEST_CASE("places that cannot be written to are refused at the start", "[files]") {
  TemporaryFolder folder;
  REQUIRE_THROWS_WITH(AsideFile(folder.path()),
                      Equals("cannot write " + folder.path() + ": it is a folder, a file name was expected"));
  const std::string nowhere = folder.path("missing/out.bin");
  REQUIRE_THROWS_WITH(AsideFile(nowhere),
                      Equals("cannot write " + nowhere + ": the folder " + folder.path("missing") + " does not exist"));
  test::write_text(folder.path("file"), "x");
  REQUIRE_THROWS_WITH(AsideFile(folder.path("file/out.bin")), Contains("Not a directory"));
  REQUIRE_THROWS_WITH(AsideFile(""), Contains("empty name"));
  REQUIRE_THROWS_WITH(AsideFile(folder.path(std::string(255, 'n'))), Contains("File name too long"));
  REQUIRE_THROWS_WITH(AsideFile("/proc/out.bin"), Contains("cannot write /proc/out.bin: "));
}

TEST_CASE("an unwritable folder is refused", "[files]") {
  TemporaryFolder folder;
  const std::string path = folder.path("out.bin");
  chmod(folder.path().c_str(), 0555);
  // For root every folder is writable, so root becomes somebody else for a moment.
  constexpr uid_t kNobody = 65534;
  const uid_t user = geteuid();
  if (user == 0) REQUIRE(seteuid(kNobody) == 0);
  std::string message;
  try {
    write_whole_file(path, "new");
  } catch (const Error& error) {
    message = error.what();
  }
  if (user == 0) REQUIRE(seteuid(user) == 0);
  chmod(folder.path().c_str(), 0755);
  REQUIRE(message == "cannot write " + path + ": Permission denied");
}

TEST_CASE("a link in the temporary's place is not followed", "[files]") {
  TemporaryFolder folder;
  test::write_text(folder.path("victim"), "untouched");
  std::filesystem::create_symlink(folder.path("victim"), folder.path("out.bin.tmp-" + std::to_string(getpid())));
  write_whole_file(folder.path("out.bin"), "new");
  REQUIRE(read_whole_file(folder.path("victim")) == "untouched");
  REQUIRE(read_whole_file(folder.path("out.bin")) == "new");
}

TEST_CASE("files that cannot be read are refused", "[files]") {
  TemporaryFolder folder;
  REQUIRE_THROWS_WITH(read_whole_file(folder.path("missing")),
                      Equals("cannot read " + folder.path("missing") + ": No such file or directory"));
  REQUIRE_THROWS_WITH(read_whole_file(folder.path()),
                      Equals("cannot read " + folder.path() + ": it is a folder, a file was expected"));
  REQUIRE_THROWS_WITH(sha256_of_file(folder.path()), Contains("it is a folder"));
  REQUIRE_THROWS_WITH(check_readable_file(folder.path("missing")), Contains("No such file"));
}

TEST_CASE("folders are made with their parents", "[files]") {
  TemporaryFolder folder;
  make_folder(folder.path("a/b/c"));
  make_folder(folder.path("a/b/c"));
  make_folder(folder.path("a/d/"));
  REQUIRE(std::filesystem::is_directory(folder.path("a/b/c")));
  test::write_text(folder.path("file"), "x");
  REQUIRE_THROWS_WITH(make_folder(folder.path("file")), Contains("cannot create the folder"));
  REQUIRE_THROWS_WITH(make_folder(folder.path("file/below")), Contains("cannot create the folder"));
}

TEST_CASE("SHA-256 agrees with the published examples, whole and in pieces", "[files]") {
  REQUIRE(sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  REQUIRE(sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  REQUIRE(sha256(std::string(1000000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  Sha256 pieces;
  pieces.update("a");
  pieces.update("");
  pieces.update("bc", 2);
  REQUIRE(pieces.hex() == sha256("abc"));
  TemporaryFolder folder;
  const std::string bytes((size_t{1} << 20) + 3, '\x7f');
  write_whole_file(folder.path("bytes"), bytes);
  REQUIRE(sha256_of_file(folder.path("bytes")) == sha256(bytes));
}

TEST_CASE("a file gets a second name, whatever had it before", "[files]") {
  TemporaryFolder folder;
  const std::string from = folder.path("from"), to = folder.path("to");
  test::write_text(from, "content");
  test::write_text(to, "what was there");
  for (int time = 0; time < 2; ++time) {  // the second time both are one file already
    link_or_copy_file(from, to);
    REQUIRE(read_whole_file(to) == "content");
    REQUIRE(std::filesystem::equivalent(from, to));
    REQUIRE(entries(folder.path()) == 2);
  }
  // A writer that replaces one name leaves the other.
  write_whole_file(from, "new");
  REQUIRE(read_whole_file(to) == "content");

  std::filesystem::remove(from);
  std::filesystem::create_symlink(to, from);
  link_or_copy_file(from, to);
  REQUIRE(read_whole_file(to) == "content");
  REQUIRE(!std::filesystem::is_symlink(to));

  REQUIRE_THROWS_WITH(link_or_copy_file(folder.path("nothing"), to), Contains("nothing") && Contains("No such file"));
  REQUIRE_THROWS_WITH(link_or_copy_file(to, folder.path("missing/to")), Contains("does not exist"));
  REQUIRE(read_whole_file(to) == "content");
  REQUIRE(entries(folder.path()) == 2);
  remove_file(to);
  remove_file(to);
  REQUIRE(entries(folder.path()) == 1);
}

TEST_CASE("a file that cannot be linked is copied", "[files]") {
  // Files of /proc are on a file system of their own, and no link leads out of one.
  TemporaryFolder folder;
  test::write_text(folder.path("to"), "what was there");
  link_or_copy_file("/proc/self/cmdline", folder.path("to"));
  REQUIRE(read_whole_file(folder.path("to")) == read_whole_file("/proc/self/cmdline"));
  REQUIRE(entries(folder.path()) == 1);
}

}  // namespace
}  // namespace itemloom
