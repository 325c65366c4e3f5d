# Finds a CUDA toolkit (CUDA_HOME, nvcc on PATH, or what scripts/setup.sh --cuda installed under build/cuda-toolkit) and
# compiles .cu files with its nvcc. The objects are the same for a GPU and for the emulation: only what they are linked
# with differs.

set(toolkit ${CMAKE_SOURCE_DIR}/build/cuda-toolkit/nvidia)
if(EXISTS ${CMAKE_SOURCE_DIR}/build/cuda-toolkit/complete)
  # It is there because nothing else was good enough.
  find_program(ITEMLOOM_NVCC nvcc PATHS ${toolkit}/cu13/bin NO_DEFAULT_PATH)
endif()
find_program(ITEMLOOM_NVCC nvcc HINTS ENV CUDA_HOME PATH_SUFFIXES bin)
if(NOT ITEMLOOM_NVCC)
  message(FATAL_ERROR "ITEMLOOM_CUDA is ${ITEMLOOM_CUDA}, but there is no nvcc on PATH or under CUDA_HOME; "
                      "install a CUDA toolkit of 12.8 or later, or run scripts/setup.sh --cuda")
endif()
get_filename_component(ITEMLOOM_CUDA_HOME ${ITEMLOOM_NVCC} REALPATH)
get_filename_component(ITEMLOOM_CUDA_HOME ${ITEMLOOM_CUDA_HOME}/../.. ABSOLUTE)
execute_process(COMMAND ${ITEMLOOM_NVCC} --version OUTPUT_VARIABLE nvcc_version COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCH "release ([0-9]+\\.[0-9]+)" _ "${nvcc_version}")
if(CMAKE_MATCH_1 VERSION_LESS 12.8)
  message(FATAL_ERROR "${ITEMLOOM_NVCC} is version ${CMAKE_MATCH_1}; 12.8 or later is needed")
endif()
find_path(ITEMLOOM_CUDA_INCLUDE cublasLt.h HINTS ${ITEMLOOM_CUDA_HOME}/include NO_DEFAULT_PATH REQUIRED)
find_path(ITEMLOOM_NVTX_INCLUDE nvtx3/nvToolsExt.h HINTS ${ITEMLOOM_CUDA_HOME}/include NO_DEFAULT_PATH REQUIRED)
find_path(ITEMLOOM_NCCL_INCLUDE nccl.h HINTS ${ITEMLOOM_CUDA_HOME}/include PATHS ${toolkit}/nccl/include REQUIRED)
message(STATUS "CUDA ${CMAKE_MATCH_1} from ${ITEMLOOM_CUDA_HOME}, ITEMLOOM_CUDA=${ITEMLOOM_CUDA}")

set(ITEMLOOM_NVCC_FLAGS -std=c++20 -O3 -lineinfo --expt-relaxed-constexpr)
# Spills and local memory are errors: they turn a register into a trip to DRAM.
set(ITEMLOOM_NVCC_GATES -Werror all-warnings -Xptxas -warn-spills,-warn-lmem-usage,-Werror -Xcompiler -Wall,-Wextra,-Wno-psabi)
set(ITEMLOOM_CUDA_ARCHITECTURES 80 90 100 CACHE STRING "Compute capabilities that kernels are compiled for")

# itemloom_cuda_objects(OUT file.cu...): custom commands that compile for every architecture, and PTX of the last for
# GPUs that are newer.
function(itemloom_cuda_objects out)
  set(generate)
  foreach(architecture ${ITEMLOOM_CUDA_ARCHITECTURES})
    list(APPEND generate -gencode arch=compute_${architecture},code=sm_${architecture})
  endforeach()
  list(GET ITEMLOOM_CUDA_ARCHITECTURES -1 newest)
  list(APPEND generate -gencode arch=compute_${newest},code=compute_${newest})
  set(objects)
  foreach(source ${ARGN})
    file(RELATIVE_PATH name ${CMAKE_SOURCE_DIR} ${source})
    set(gates ${ITEMLOOM_NVCC_GATES})
    if(name STREQUAL "kernels/cuda/sort_pairs.cu")
      set(gates -Werror all-warnings)
    endif()
    set(object ${CMAKE_BINARY_DIR}/cuda_objects/${name}.o)
    get_filename_component(folder ${object} DIRECTORY)
    file(MAKE_DIRECTORY ${folder})
    add_custom_command(
      OUTPUT ${object}
      COMMAND ${CMAKE_CXX_COMPILER_LAUNCHER} ${ITEMLOOM_NVCC} ${ITEMLOOM_NVCC_FLAGS} ${gates} ${generate}
              -I${CMAKE_SOURCE_DIR} -MD -MF ${object}.d -c ${source} -o ${object}
      DEPENDS ${source}
      DEPFILE ${object}.d
      COMMENT "nvcc ${name}"
      VERBATIM)
    list(APPEND objects ${object})
  endforeach()
  set(${out} ${objects} PARENT_SCOPE)
endfunction()
