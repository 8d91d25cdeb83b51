// Cases too large for a golden file: a small text with the case's description, hashes of the inputs that it
// is drawn into, and some elements of the results with their bounds. Inputs come from the counter generator
// where the case is judged.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "golden/catalogue/case_builder.hpp"

namespace moeref {

/// One element of a result by the reference.
struct ResultSample {
  std::int64_t index = 0;  ///< row-major in the whole tensor
  double value = 0.0;
  float bound = 0.0f;

  friend bool operator==(const ResultSample&, const ResultSample&) = default;
};

struct DrawnCase {
  CaseSpec spec;
  std::string producer;
  std::map<std::string, std::string> hashes;                 ///< by the names of the call's tensors
  std::map<std::string, std::vector<ResultSample>> samples;  ///< by the names of results

  friend bool operator==(const DrawnCase&, const DrawnCase&) = default;
};

/// "NAME.drawn.json".
bool is_drawn_case(const std::filesystem::path& file);
std::string drawn_file_name(const CaseSpec& spec);

/// Draws the call, and computes elements of its results in parts (reduced_call.hpp), so that it takes a small
/// share of the whole call's time: rows of some tokens whose experts every honest port selects, and hidden
/// units of an expert. Throws InputError for a call that has no such parts, and for one that is not on
/// given or decided experts.
DrawnCase make_drawn_case(CaseSpec spec);

/// A few kilobytes of JSON; read_drawn_case gives the same case back. Throws InputError with one line that
/// begins with the file's path.
std::string to_text(const DrawnCase& drawn);
DrawnCase read_drawn_case(const std::filesystem::path& file);

/// The call with all its tensors. Throws InputError naming the first tensor whose hash is another one.
Call draw_call(const DrawnCase& drawn);

}  // namespace moeref
