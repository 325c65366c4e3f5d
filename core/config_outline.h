// A described struct as data: one entry for each field, with a pointer to its value. Everything that is done with
// configurations (reading, dumping, the schema) walks an outline, so that the structs alone are templates' business.
//
// Options that depend on other values (`active`) are those of the moment at which the outline was made.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <variant>

#include "core/config.h"

namespace itemloom {

struct ConfigEntry;
using ConfigOutline = std::vector<ConfigEntry>;

struct ConfigGroup {
  ConfigOutline entries;
};

struct ConfigList {
  std::vector<ConfigOutline> elements;
  ConfigOutline prototype;                // of a new element, with its defaults
  std::shared_ptr<void> prototype_owner;  // keeps what the prototype points to
  // Makes the list this long, each element new, and returns the outlines of the elements.
  std::function<std::vector<ConfigOutline>(size_t)> resize;
};

struct ConfigEntry {
  std::string key;
  FieldOptions options;
  std::variant<bool*, int64_t*, double*, std::string*, std::vector<int64_t>*, std::vector<double>*,
               std::vector<std::string>*, ConfigGroup, ConfigList>
      value;
};

template <class Struct>
ConfigOutline outline_of(Struct& values);

namespace config_detail {

template <class Element>
std::vector<ConfigOutline> outlines_of(std::vector<Element>& elements) {
  std::vector<ConfigOutline> outlines;
  for (Element& element : elements) outlines.push_back(outline_of(element));
  return outlines;
}

struct OutlineBuilder {
  template <class Value>
  void field(const char* key, Value& value, const FieldOptions& options) {
    outline.push_back({key, options, &value});
  }
  template <class Struct>
  void group(const char* key, Struct& values, const FieldOptions& options) {
    outline.push_back({key, options, ConfigGroup{outline_of(values)}});
  }
  template <class Element>
  void list(const char* key, std::vector<Element>& elements, const FieldOptions& options) {
    auto prototype = std::make_shared<Element>();
    ConfigList list{outlines_of(elements), outline_of(*prototype), prototype, [&elements](size_t count) {
                      elements.assign(count, Element{});
                      return outlines_of(elements);
                    }};
    outline.push_back({key, options, std::move(list)});
  }

  ConfigOutline outline;
};

}  // namespace config_detail

template <class Struct>
ConfigOutline outline_of(Struct& values) {
  config_detail::OutlineBuilder builder;
  values.describe(builder);
  return std::move(builder.outline);
}

}  // namespace itemloom
