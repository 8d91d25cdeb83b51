// The one exception for anything a user can get wrong.
#pragma once

#include <stdexcept>
#include <string>

namespace moeref {

/// Bad input: an impossible config, a missing or misshapen tensor, an unreadable file. The message is one
/// line that names the file, field or dataset, the value found, and what would be right. The command exits
/// with 2 on it.
class InputError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace moeref
