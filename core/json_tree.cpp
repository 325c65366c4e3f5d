#include "core/json_tree.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

#include "core/check.h"

namespace itemloom {
namespace {

// Iterates over the text and counts the lines that have been read.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, int64_t* line, char* last) : at_(at), line_(line), last_(last) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    *last_ = *at_;
    if (*at_++ == '\n') ++*line_;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const CountingIterator& other) const { return at_ == other.at_; }
  bool operator!=(const CountingIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  int64_t* line_;
  char* last_;
};

class TreeBuilder final : public nlohmann::json_sax<nlohmann::json> {
 public:
  static constexpr size_t kMaxDepth = 32;

  explicit TreeBuilder(std::shared_ptr<const JsonSource> source) : source_(std::move(source)) {}

  bool null() override { return add_scalar(nullptr); }
  bool boolean(bool value) override { return add_scalar(value); }
  bool number_integer(number_integer_t value) override { return add_scalar(value); }
  bool number_unsigned(number_unsigned_t value) override { return add_scalar(value); }
  bool number_float(number_float_t value, const string_t&) override { return add_scalar(value); }
  bool string(string_t& value) override { return add_scalar(value); }
  bool binary(binary_t&) override { return false; }  // does not exist in JSON text
  bool start_object(size_t) override { return open(JsonNode::Kind::kObject); }
  bool start_array(size_t) override { return open(JsonNode::Kind::kArray); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    JsonNode& object = *open_.back();
    if (const JsonNode* first = object.find(name)) {
      const std::string where = source_->has_lines ? join_message(source_->name, ":", line) : source_->name;
      const std::string also = source_->has_lines ? join_message(" (first in line ", first->line, ")") : "";
      fail(where, ": the key \"", name, "\" is given twice", also, "; keep one of them");
    }
    object.members.emplace_back(name, JsonNode{});
    object.members.back().second.line = line;
    return true;
  }

  bool parse_error(size_t, const std::string& last_token, const nlohmann::json::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 3, column 5: syntax error while parsing value - unexpected"
    std::string text = error.what();
    std::string column;
    if (const size_t at = text.find("column "); at != std::string::npos) {
      const size_t end = text.find(':', at);
      column = text.substr(at, end - at);
      text = text.substr(std::min(text.size(), end + 2));
    } else if (const size_t bracket = text.find("] "); bracket != std::string::npos) {
      text = text.substr(bracket + 2);
    }
    if (last_token.ends_with('/') || last_token.ends_with('#')) text += " (JSON has no comments)";
    if (!source_->has_lines) fail(source_->name, ": no JSON: ", text);
    fail(source_->name, ":", line, column.empty() ? "" : ", " + column, ": no JSON: ", text);
  }

  JsonNode take() { return std::move(root_); }

  int64_t line = 1;
  char last = 0;

 private:
  // The node that the next value fills.
  JsonNode& place() {
    if (open_.empty()) {
      root_.line = line;
      return root_;
    }
    JsonNode& parent = *open_.back();
    if (parent.kind == JsonNode::Kind::kObject) return parent.members.back().second;
    parent.elements.emplace_back();
    parent.elements.back().line = line;
    return parent.elements.back();
  }

  bool add_scalar(nlohmann::json value) {
    // The end of a number is only seen when the character after it has been read.
    const bool ahead = value.is_number() && last == '\n';
    line -= ahead;
    JsonNode& node = place();
    line += ahead;
    node.source = source_;
    node.scalar = std::move(value);
    return true;
  }

  bool open(JsonNode::Kind kind) {
    JsonNode& node = place();
    node.source = source_;
    node.kind = kind;
    open_.push_back(&node);
    if (open_.size() > kMaxDepth) fail(node.where(), ": nested deeper than ", kMaxDepth);
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  std::shared_ptr<const JsonSource> source_;
  JsonNode root_;
  std::vector<JsonNode*> open_;  // a parent grows only while none of its children is in here
};

}  // namespace

const JsonNode* JsonNode::find(std::string_view key) const {
  for (const auto& [name, node] : members)
    if (name == key) return &node;
  return nullptr;
}

JsonNode* JsonNode::find(std::string_view key) {
  return const_cast<JsonNode*>(static_cast<const JsonNode*>(this)->find(key));
}

std::string JsonNode::where() const {
  return source->has_lines ? join_message(source->name, ":", line) : source->name;
}

std::string JsonNode::shown() const {
  if (kind == Kind::kObject) return "an object";
  if (kind == Kind::kArray) return "a list";
  if (scalar.is_null()) return "null";
  std::string text = scalar.dump();
  if (text.size() > 80) text = text.substr(0, 60) + "...";
  return scalar.is_string() ? "the string " + text : text;
}

JsonNode parse_json(std::string_view text, std::shared_ptr<const JsonSource> source) {
  TreeBuilder builder(std::move(source));
  const CountingIterator begin(text.data(), &builder.line, &builder.last);
  const CountingIterator end(text.data() + text.size(), &builder.line, &builder.last);
  nlohmann::json::sax_parse(begin, end, &builder);
  return builder.take();
}

JsonNode read_json_object(const std::string& path) {
  constexpr uintmax_t kMaxBytes = 16 << 20;
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  CHECK(status.type() != fs::file_type::not_found, path, ": no such config file");
  CHECK(status.type() != fs::file_type::directory, path, ": a folder; give a config file");
  std::ifstream file(path, std::ios::binary);
  CHECK(file, path, ": cannot be read: ", std::strerror(errno));
  std::string text;
  text.resize(kMaxBytes + 1);
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  CHECK(!file.bad(), path, ": cannot be read: ", std::strerror(errno));
  CHECK(text.size() <= kMaxBytes, path, ": larger than 16 MiB, which no config is");
  CHECK(text.find_first_not_of(" \t\r\n") != std::string::npos, path, ": empty; a config is at least {}");
  auto source = std::make_shared<JsonSource>();
  source->name = source->origin = path;
  source->folder = fs::absolute(path).lexically_normal().parent_path();
  JsonNode root = parse_json(text, std::move(source));
  CHECK(root.kind == JsonNode::Kind::kObject, root.where(), ": a config is a JSON object, not ", root.shown());
  return root;
}

}  // namespace itemloom
