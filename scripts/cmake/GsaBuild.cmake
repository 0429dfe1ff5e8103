# Compiler settings shared by every target, and the functions by which folders declare theirs.

add_library(gsa_settings INTERFACE)
target_include_directories(gsa_settings INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(gsa_settings INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion
  -Wno-missing-field-initializers -Wno-restrict -Werror>)
if(GSA_NATIVE)
  target_compile_options(gsa_settings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-march=native>)
endif()
if(GSA_SANITIZE)
  target_compile_options(gsa_settings INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=address,undefined -fno-sanitize-recover=all
    -fno-omit-frame-pointer -g1>)
  target_link_options(gsa_settings INTERFACE -fsanitize=address,undefined)
endif()
if(GSA_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    message(FATAL_ERROR "GSA_FUZZ needs libFuzzer: configure with -DCMAKE_CXX_COMPILER=clang++")
  endif()
  # Its warnings are not g++'s, which the code is kept free of.
  target_compile_options(gsa_settings INTERFACE -fsanitize=fuzzer-no-link,address,undefined
    -fno-sanitize-recover=all -fno-omit-frame-pointer -g1 -Wno-error)
  target_link_options(gsa_settings INTERFACE -fsanitize=address,undefined)
endif()

# Whether this build has CUDA: asked for, or found.
set(GSA_HAS_CUDA OFF)
if(NOT GSA_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  find_program(GSA_NVCC nvcc HINTS /usr/local/cuda/bin)
  if(GSA_NVCC)
    set(CMAKE_CUDA_COMPILER ${GSA_NVCC})
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES 90a CACHE STRING "GPU architectures to compile for")
    endif()
    enable_language(CUDA)
    set(CMAKE_CUDA_STANDARD 20)
    if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 knows nvcc up to C++17 only
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    endif()
    find_package(CUDAToolkit REQUIRED)
    set(GSA_HAS_CUDA ON)
  elseif(GSA_CUDA STREQUAL "ON")
    message(FATAL_ERROR "GSA_CUDA=ON, but nvcc was not found; install the CUDA toolkit or configure with -DGSA_CUDA=OFF")
  endif()
endif()
message(STATUS "gsa: CUDA ${GSA_HAS_CUDA}")

# gsa_library(NAME SOURCES... [LINK targets...]): a static library with the project's settings.
function(gsa_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;LINK" ${ARGN})
  add_library(${name} STATIC ${arg_SOURCES})
  target_link_libraries(${name} PUBLIC gsa_settings ${arg_LINK})
endfunction()

# gsa_test(NAME SOURCES... [LINK targets...] [RANKS n...]): a GoogleTest program. One ctest entry; with
# RANKS one for each number of ranks, NAME.ranksN, under mpirun (1: without it).
function(gsa_test name)
  cmake_parse_arguments(arg "" "" "SOURCES;LINK;RANKS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE gsa_settings ${arg_LINK} GTest::gtest GTest::gtest_main)
  set(entries)
  foreach(ranks ${arg_RANKS})
    set(launcher)
    if(ranks GREATER 1)
      set(launcher mpirun --allow-run-as-root --oversubscribe --bind-to none -n ${ranks})
    endif()
    add_test(NAME ${name}.ranks${ranks} COMMAND ${launcher} $<TARGET_FILE:${name}>)
    set_tests_properties(${name}.ranks${ranks} PROPERTIES PROCESSORS 2 LABELS mpi)
    list(APPEND entries ${name}.ranks${ranks})
  endforeach()
  if(NOT entries)
    add_test(NAME ${name} COMMAND ${name})
    set(entries ${name})
  endif()
  set_tests_properties(${entries} PROPERTIES TIMEOUT 900
    ENVIRONMENT "GSA_BINARY=$<$<TARGET_EXISTS:gsa>:$<TARGET_FILE:gsa>>")
endfunction()
