// Small questions about text: is it UTF-8, how is it shown in a message, which of two texts is nearer.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace itemloom {

// The index of the first byte that is not part of well-formed UTF-8 (overlong forms, surrogates and code points above
// U+10FFFF are not), or -1 when all is well.
int64_t first_invalid_utf8(std::string_view text);

// The text in double quotes for a message of one line: control and non-UTF-8 bytes as \xNN, at most about 60
// characters, an ellipsis after them.
std::string in_quotes(std::string_view text);

// "1,234,567"
std::string grouped(int64_t number);

}  // namespace itemloom
