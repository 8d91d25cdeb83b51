// From a drawn case and a port to the case's part of the report.
#pragma once

#include <filesystem>

#include "tools/ports/port.hpp"
#include "tools/report/report.hpp"

namespace moeref {

/// Draws the inputs, compares their hashes, and judges the port's results: the elements that the file has, by
/// its bounds, and by samples of the reference those that no file could (verdict/sampled.hpp). Of the
/// reference itself the file is judged: it must hold the bits that are computed now. Throws InputError when
/// the file is bad, or its inputs are drawn otherwise here.
CaseReport check_drawn_case(const std::filesystem::path& file, Port& port, JudgeOptions options,
                            bool forward_only);

}  // namespace moeref
