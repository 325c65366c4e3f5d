// Catch2 without its CHECK, whose name is core/check.h's here. Tests use REQUIRE.
#pragma once

#include "core/check.h"
#pragma push_macro("CHECK")
#undef CHECK
#include <catch2/catch.hpp>
#undef CHECK
#pragma pop_macro("CHECK")
