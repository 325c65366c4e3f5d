// Everything that translated code uses; the translator's output includes this and nothing else.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "access.h"
#include "arithmetic.h"
#include "barrier.h"
#include "device_library.h"
#include "floating.h"
#include "matrix.h"
#include "module.h"
#include "thread.h"
#include "warp.h"
