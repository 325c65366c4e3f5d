#include "core/hdf5.h"

#include <cstring>
#include <filesystem>
#include <limits>
#include <numeric>
#include <thread>

#include "tests/support/catch.h"
#include "tests/support/full_disk.h"
#include "tests/support/process.h"

namespace itemloom {
namespace {

using Catch::Matchers::Contains;
using Catch::Matchers::Equals;
using test::TemporaryFolder;

template <class T>
std::vector<T> some_values(int64_t count) {
  std::vector<T> values(static_cast<size_t>(count));
  for (int64_t index = 0; index < count; ++index) {
    values[index] = static_cast<T>(index % 2 == 0 ? index * 37 + 1 : index * 11);
  }
  if (count > 1) {
    values[0] = std::numeric_limits<T>::lowest();
    values[1] = std::numeric_limits<T>::max();
  }
  return values;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

template <class T>
void require_round_trip(const std::string& path) {
  const std::vector<Shape> shapes = {{}, {0}, {1}, {33}, {3, 31}, {0, 7}, {5, 0}, {2, 3, 5}, {2, 1, 3, 65}};
  {
    Hdf5Writer file(path);
    for (const Layout layout : {Layout::kContiguous, Layout::kChecked}) {
      for (size_t index = 0; index < shapes.size(); ++index) {
        int64_t count = 1;
        for (const int64_t extent : shapes[index]) count *= extent;
        const std::string group = layout == Layout::kContiguous ? "/plain/deep/" : "/checked/";
        file.write(group + std::to_string(index), shapes[index], some_values<T>(count).data(), layout);
      }
    }
    file.commit();
  }
  const Hdf5Reader file(path);
  for (const std::string group : {"/plain/deep/", "/checked/"}) {
    for (size_t index = 0; index < shapes.size(); ++index) {
      const std::string name = group + std::to_string(index);
      const DatasetInfo info = file.info(name);
      REQUIRE(info.shape == shapes[index]);
      REQUIRE(info.type == element_type<T>());
      const std::vector<T> values = file.read<T>(name);
      REQUIRE(same_bits(values, some_values<T>(static_cast<int64_t>(values.size()))));
    }
  }
}

TEST_CASE("numbers of each type and shape come back as they were written", "[hdf5]") {
  TemporaryFolder folder;
  require_round_trip<float>(folder.path("f.h5"));
  require_round_trip<double>(folder.path("f.h5"));
  require_round_trip<int32_t>(folder.path("f.h5"));
  require_round_trip<int64_t>(folder.path("f.h5"));
  require_round_trip<uint8_t>(folder.path("f.h5"));
  require_round_trip<uint64_t>(folder.path("f.h5"));
}

TEST_CASE("contiguous datasets lie in the file as they lie in memory", "[hdf5]") {
  TemporaryFolder folder;
  const bool sealed = GENERATE(false, true);
  const std::vector<int32_t> odd = some_values<int32_t>(7), items = some_values<int32_t>(1001);
  {
    Hdf5Writer file(folder.path("f.h5"), sealed);
    file.write("/odd", odd);
    file.write("/items", items);
    file.write("/checked", items, Layout::kChecked);
    file.write("/empty", std::vector<int32_t>());
    file.write("/texts", std::vector<std::string>{"a"});
    file.commit();
  }
  const std::string bytes = read_whole_file(folder.path("f.h5"));
  const Hdf5Reader file(folder.path("f.h5"));
  for (const auto& [name, values] : {std::pair{"/odd", odd}, std::pair{"/items", items}}) {
    const int64_t offset = file.info(name).offset;
    REQUIRE(offset > 0);
    REQUIRE(offset % 64 == 0);
    REQUIRE(std::memcmp(bytes.data() + offset, values.data(), values.size() * 4) == 0);
  }
  REQUIRE(file.info("/checked").offset == -1);
  REQUIRE(file.info("/empty").offset == -1);
  REQUIRE(file.info("/texts").offset == -1);
}

TEST_CASE("texts come back byte for byte, empty and beyond ASCII ones too", "[hdf5]") {
  TemporaryFolder folder;
  std::vector<std::string> texts = {
      "", "plain", "Tasse mit Henkel, gr\xc3\xbcn", "\xe8\x8c\xb6", std::string(100000, 'x'), ""};
  for (int index = 0; index < 5000; ++index) texts.push_back("item " + std::to_string(index));
  {
    Hdf5Writer file(folder.path("f.h5"));
    file.write("/item/id", texts);
    file.write("/item/none", std::vector<std::string>());
    REQUIRE_THROWS_WITH(file.write("/bad", std::vector<std::string>{"a", std::string("b\0c", 3)}),
                        Contains("text 1 of /bad holds a zero byte"));
    file.commit();
  }
  const Hdf5Reader file(folder.path("f.h5"));
  REQUIRE(file.info("/item/id").type == ElementType::kText);
  REQUIRE(file.read_texts("/item/id") == texts);
  REQUIRE(file.read_texts("/item/id", 2, 3) == std::vector<std::string>(texts.begin() + 2, texts.begin() + 5));
  REQUIRE(file.read_texts("/item/id", 7, 0).empty());
  REQUIRE(file.read_texts("/item/none").empty());
  REQUIRE_THROWS_WITH(file.read_texts("/item/id", 5000, 7), Contains("cannot read texts 5000 to 5007 of /item/id"));
  REQUIRE_THROWS_WITH(file.read<float>("/item/id"), Contains("it holds text, float32 was expected"));
}

TEST_CASE("matrices are written and read by rows", "[hdf5]") {
  TemporaryFolder folder;
  const Layout layout = GENERATE(Layout::kContiguous, Layout::kChecked);
  const int64_t rows = 701, columns = 613;
  const std::vector<float> values = some_values<float>(rows * columns);
  {
    Hdf5Writer file(folder.path("f.h5"));
    file.create<float>("/matrix", {rows, columns}, layout);
    file.create<float>("/sparse", {9, 3}, layout);
    for (int64_t first = 0; first < rows; first += 100) {
      file.write_rows("/matrix", first, std::min<int64_t>(100, rows - first), values.data() + first * columns);
    }
    file.write_rows<float>("/matrix", rows, 0, nullptr);
    file.write_rows("/sparse", 4, 2, values.data());
    REQUIRE_THROWS_WITH(file.write_rows("/matrix", 700, 2, values.data()),
                        Contains("cannot write rows 700 to 702 of /matrix") && Contains("(701, 613)"));
    REQUIRE_THROWS_WITH(file.write_rows("/matrix", 0, 1, some_values<double>(columns).data()),
                        Contains("it holds float32, not float64"));
    REQUIRE_THROWS_AS(file.write_rows("/matrix", -1, 1, values.data()), Error);
    file.commit();
  }
  const Hdf5Reader file(folder.path("f.h5"));
  REQUIRE(same_bits(file.read<float>("/matrix"), values));
  std::vector<float> part(3 * columns);
  file.read_rows("/matrix", 99, 3, part.data());
  REQUIRE(std::memcmp(part.data(), values.data() + 99 * columns, part.size() * 4) == 0);
  REQUIRE_THROWS_WITH(file.read_rows("/matrix", 699, 3, part.data()), Contains("cannot read rows 699 to 702"));
  std::vector<float> sparse(27, 0);
  std::copy_n(values.begin(), 6, sparse.begin() + 12);
  REQUIRE(same_bits(file.read<float>("/sparse"), sparse));

  std::vector<float> filled(rows * columns);
  file.read("/matrix", Matrix<float>(filled.data(), rows, columns));
  REQUIRE(same_bits(filled, values));
  REQUIRE_THROWS_WITH(file.read("/matrix", Matrix<float>(filled.data(), columns, rows)),
                      Contains("its shape is (701, 613), (613, 701) was expected"));
}

TEST_CASE("attributes hold numbers, texts and lists of them", "[hdf5]") {
  TemporaryFolder folder;
  const std::map<std::string, AttributeValue> expected = {
      {"count", int64_t{-5}},
      {"share", 0.1},
      {"name", std::string("B\xc3\xbc"
                           "cher")},
      {"nothing", std::string()},
      {"config", std::string(300000, 'c')},
      {"sizes", std::vector<int64_t>{1, 2, 3}},
      {"shares", std::vector<double>{0.5, -1e300}},
      {"names", std::vector<std::string>{"a", "", "c"}},
      {"no_sizes", std::vector<int64_t>{}},
      {"no_names", std::vector<std::string>{}},
  };
  {
    Hdf5Writer file(folder.path("f.h5"));
    file.create_group("/group/below");
    file.write("/data", std::vector<float>{1});
    for (const std::string object : {"/", "/group/below", "/data"}) {
      file.write_attribute(object, "count", int64_t{7});
      for (const auto& [name, value] : expected) file.write_attribute(object, name, value);
    }
    REQUIRE_THROWS_WITH(file.write_attribute("/missing", "a", 1.0), Contains("cannot write attribute a of /missing"));
    file.commit();
  }
  const Hdf5Reader file(folder.path("f.h5"));
  for (const std::string object : {"/", "/group/below", "/data"}) REQUIRE(file.attributes(object) == expected);
  REQUIRE(file.attribute<int64_t>("/", "count") == -5);
  REQUIRE(file.attribute<std::string>("/data", "name") ==
          "B\xc3\xbc"
          "cher");
  REQUIRE(file.has_attribute("/", "share"));
  REQUIRE_FALSE(file.has_attribute("/", "shade"));
  REQUIRE_THROWS_WITH(file.attribute<double>("/", "count"), Contains("the attribute count of / holds another kind"));
  REQUIRE_THROWS_WITH(file.attribute<double>("/", "shade"), Contains("has no attribute shade at /"));
}

TEST_CASE("a file says what it holds", "[hdf5]") {
  TemporaryFolder folder;
  {
    Hdf5Writer file(folder.path("f.h5"));
    file.write("/b/two", std::vector<float>{1});
    file.write("/b/one", std::vector<float>{1});
    file.write("/a", std::vector<float>{1});
    file.create_group("/c");
    REQUIRE_THROWS_WITH(file.write("/a", std::vector<float>{2}), Contains("cannot write /a of " + folder.path("f.h5")));
    file.commit();
  }
  const Hdf5Reader file(folder.path("f.h5"));
  REQUIRE(file.children("/") == std::vector<std::string>{"a", "b", "c"});
  REQUIRE(file.children("/b") == std::vector<std::string>{"one", "two"});
  REQUIRE(file.children("/c").empty());
  REQUIRE(file.exists("/"));
  REQUIRE(file.exists("/b/one"));
  REQUIRE_FALSE(file.exists("/b/three"));
  REQUIRE_FALSE(file.exists("/x/y/z"));
  REQUIRE_FALSE(file.exists("/a/below"));
  REQUIRE_FALSE(file.exists(""));
  REQUIRE(file.is_group("/b"));
  REQUIRE_FALSE(file.is_group("/a"));
  REQUIRE_THROWS_WITH(file.read<float>("/x/y"), Equals(folder.path("f.h5") + " has no dataset /x/y"));
  REQUIRE_THROWS_WITH(file.read<float>("/b"), Contains("it is no dataset"));
  REQUIRE_THROWS_WITH(file.read<int32_t>("/a"), Contains("it holds float32, int32 was expected"));
  REQUIRE_THROWS_WITH(file.children("/x"), Contains("has no /x"));
}

TEST_CASE("equal content gives equal bytes", "[hdf5]") {
  TemporaryFolder folder;
  for (const std::string name : {"one.h5", "two.h5"}) {
    Hdf5Writer file(folder.path(name));
    write_header(file, "dataset", 1);
    file.write("/item/id", std::vector<std::string>{"a", "b"});
    file.write("/item/count", some_values<int64_t>(99), Layout::kChecked);
    file.commit();
    if (name == "one.h5") std::this_thread::sleep_for(std::chrono::milliseconds(1100));
  }
  REQUIRE(read_whole_file(folder.path("one.h5")) == read_whole_file(folder.path("two.h5")));
}

TEST_CASE("files that are no readable HDF5 files are refused", "[hdf5]") {
  TemporaryFolder folder;
  const std::string path = folder.path("f.h5");
  REQUIRE_THROWS_WITH(Hdf5Reader(path), Equals("cannot read " + path + ": No such file or directory"));
  REQUIRE_THROWS_WITH(Hdf5Reader(folder.path()), Contains("it is a folder"));
  test::write_text(path, "");
  REQUIRE_THROWS_WITH(Hdf5Reader(path), Equals(path + " is empty, an HDF5 file was expected"));
  test::write_text(path, "user,item\n1,2\n");
  REQUIRE_THROWS_WITH(Hdf5Reader(path), Equals(path + " is not an HDF5 file"));
  test::write_text(path, std::string(100000, '\x93'));
  REQUIRE_THROWS_WITH(Hdf5Reader(path), Equals(path + " is not an HDF5 file"));
  {
    Hdf5Writer file(path);
    file.write("/values", some_values<float>(10000));
    file.commit();
  }
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1000);
  REQUIRE_THROWS_WITH(Hdf5Reader(path), Equals(path + " is damaged: it has been cut short"));
  std::filesystem::resize_file(path, 40);
  REQUIRE_THROWS_AS(Hdf5Reader(path), Error);
}

TEST_CASE("a damaged byte of a checked dataset is noticed", "[hdf5]") {
  TemporaryFolder folder;
  const std::string path = folder.path("f.h5");
  const std::vector<int64_t> values(1000, 0x1122334455667788);
  {
    Hdf5Writer file(path);
    file.write("/values", values, Layout::kChecked);
    file.commit();
  }
  std::string bytes = read_whole_file(path);
  const size_t place = bytes.find("\x88\x77\x66\x55\x44\x33\x22\x11");
  REQUIRE(place != std::string::npos);
  bytes[place + 4001] ^= 0x10;
  test::write_text(path, bytes);
  const Hdf5Reader file(path);
  REQUIRE_THROWS_WITH(file.read<int64_t>("/values"),
                      Contains("cannot read /values of " + path) && Contains("Fletcher32"));
}

TEST_CASE("a sealed file is refused when any of its bytes is damaged", "[hdf5]") {
  TemporaryFolder folder;
  const std::string path = folder.path("f.h5");
  {
    Hdf5Writer file(path, true);
    file.write("/values", some_values<float>(100));
    file.commit();
  }
  REQUIRE(examine_seal(path) == Seal::kIntact);
  REQUIRE(same_bits(Hdf5Reader(path).read<float>("/values"), some_values<float>(100)));
  const std::string bytes = read_whole_file(path);
  for (size_t place = 16; place < bytes.size(); place += 61) {
    std::string damaged = bytes;
    damaged[place] ^= 1;
    test::write_text(path, damaged);
    REQUIRE(examine_seal(path) == Seal::kBroken);
    REQUIRE_THROWS_WITH(Hdf5Reader(path), Contains(path + " is damaged"));
  }
  for (const size_t size : {bytes.size() - 1, bytes.size() / 2, size_t{513}, size_t{512}, size_t{100}, size_t{16}}) {
    test::write_text(path, bytes.substr(0, size));
    REQUIRE(examine_seal(path) == Seal::kBroken);
  }
  test::write_text(path, bytes + "x");
  REQUIRE(examine_seal(path) == Seal::kBroken);
  test::write_text(path, "itemloom");
  REQUIRE(examine_seal(path) == Seal::kNone);
}

TEST_CASE("a kind other than the expected one is named", "[hdf5]") {
  TemporaryFolder folder;
  const std::string path = folder.path("f.h5");
  const auto write_with_header = [&](const std::string& kind, int64_t version) {
    Hdf5Writer file(path);
    write_header(file, kind, version);
    file.commit();
  };
  write_with_header("checkpoint", 2);
  REQUIRE(check_header(Hdf5Reader(path), "checkpoint", 2) == 2);
  REQUIRE_THROWS_WITH(check_header(Hdf5Reader(path), "dataset", 2),
                      Equals(path + " is an itemloom checkpoint, a dataset was expected"));
  REQUIRE_THROWS_WITH(check_header(Hdf5Reader(path), "export", 2),
                      Equals(path + " is an itemloom checkpoint, an export was expected"));
  REQUIRE_THROWS_WITH(check_header(Hdf5Reader(path), "checkpoint", 1),
                      Contains("has format version 2, this program reads up to 1"));
  {
    Hdf5Writer file(path);
    file.commit();
  }
  REQUIRE_THROWS_WITH(check_header(Hdf5Reader(path), "dataset", 1),
                      Contains("was not written by itemloom, a dataset was expected"));
}

int64_t open_descriptors() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator());
}

TEST_CASE("a disk that fills up leaves the old file, no temporary and no open file", "[hdf5]") {
  TemporaryFolder folder;
  const std::string path = folder.path("f.h5");
  test::write_text(path, "old");
  const std::vector<float> values(100000, 1.0f);
  // Fails while values are written, and, with small datasets that stay in the library's buffers, at the end.
  for (const size_t count : {values.size(), size_t{3000}}) {
    const std::string message = test::message_on_full_disk(5000, [&] {
      const int64_t before = open_descriptors();
      try {
        Hdf5Writer file(path);
        file.write("/checked", {static_cast<int64_t>(count)}, values.data(), Layout::kChecked);
        file.write("/values", {static_cast<int64_t>(count)}, values.data());
        file.commit();
      } catch (const Error&) {
        CHECK(open_descriptors() == before, "a file has stayed open");
        throw;
      }
    });
    REQUIRE_THAT(message, Contains("cannot write ") && Contains(path) && Contains(": File too large"));
    REQUIRE(read_whole_file(path) == "old");
    REQUIRE(std::distance(std::filesystem::directory_iterator(folder.path()), std::filesystem::directory_iterator()) ==
            1);
  }
}

TEST_CASE("an abandoned writer leaves nothing behind", "[hdf5]") {
  TemporaryFolder folder;
  {
    Hdf5Writer file(folder.path("f.h5"));
    file.write("/values", some_values<float>(1000));
  }
  REQUIRE(std::filesystem::is_empty(folder.path()));
  REQUIRE_THROWS_WITH(Hdf5Writer(folder.path("missing/f.h5")), Contains("does not exist"));
}

TEST_CASE("several threads may use files at once", "[hdf5]") {
  TemporaryFolder folder;
  const auto work = [&](int number) {
    const std::string path = folder.path(std::to_string(number));
    for (int round = 0; round < 5; ++round) {
      Hdf5Writer writer(path);
      writer.write("/values", some_values<float>(1000 + number));
      writer.write("/texts", std::vector<std::string>(100, "text " + std::to_string(number)));
      writer.commit();
      const Hdf5Reader reader(path);
      if (!same_bits(reader.read<float>("/values"), some_values<float>(1000 + number))) return false;
      if (reader.read_texts("/texts")[99] != "text " + std::to_string(number)) return false;
    }
    return true;
  };
  std::vector<char> good(4, 0);
  std::vector<std::thread> threads;
  for (int number = 0; number < 4; ++number) threads.emplace_back([&, number] { good[number] = work(number); });
  for (std::thread& thread : threads) thread.join();
  REQUIRE(good == std::vector<char>(4, 1));
}

}  // namespace
}  // namespace itemloom
