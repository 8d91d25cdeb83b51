// The subcommands of `moeref`. Each lives in the file of its name and is entered here and in main.cpp.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "tools/terminal/exit_code.hpp"

namespace moeref {

/// Bad usage and bad input are exceptions (CLI::ParseError, InputError) until main.cpp makes an exit code of
/// them.
struct Command {
  CLI::App* app;             ///< tells whether it was asked for
  std::function<int()> run;  ///< gives an ExitCode
};

/// The option --component, the same in every command.
inline CLI::Option* add_components(CLI::App& app, std::vector<std::string>& chosen, const std::string& what) {
  return app.add_option("--component", chosen, what + "; several as gate,moe, or by repeating it")
      ->type_name("C")
      ->delimiter(',');
}

Command list_command(CLI::App& parent);
Command generate_command(CLI::App& parent);
Command validate_command(CLI::App& parent);
Command check_command(CLI::App& parent);
Command inspect_command(CLI::App& parent);
Command bench_command(CLI::App& parent);
Command probe_command(CLI::App& parent);
Command agree_command(CLI::App& parent);
Command compare_command(CLI::App& parent);
Command mutants_command(CLI::App& parent);

}  // namespace moeref
