// What every command ends with.
#pragma once

namespace moeref {

enum ExitCode : int {
  kExitPassed = 0,    ///< all that ran passed, and something ran
  kExitFailed = 1,    ///< at least one FAIL, or nothing ran
  kExitBadInput = 2,  ///< one line on stderr says which file, dataset or field, and what is wrong
  kExitCrashed = 3,   ///< a port crashed or hung, or moeref itself met an error that no input should cause
};

}  // namespace moeref
