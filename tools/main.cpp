// moeref: golden files for Mixture-of-Experts layers, and verdicts on implementations of them.
//
// Exit codes: commands.hpp. Anything that a user can get wrong is one line on stderr and exit code 2.
#include <fmt/core.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "moeref/error.hpp"
#include "tools/commands/commands.hpp"
#include "tools/judging/suite_host.hpp"
#include "tools/port_host/port_host.hpp"
#include "tools/terminal/terminal.hpp"

namespace {

constexpr const char* kFooter = R"(
Exit codes: 0 all that ran passed and something ran; 1 at least one FAIL, or nothing ran; 2 bad usage or bad
input, with one line that says what is wrong; 3 a port crashed, hung or
broke the interface.

  moeref generate --out goldens                         the whole catalogue
  moeref generate --out layer --preset qwen3_30b        one layer of a published model
  moeref generate --out mine --config my_layer.json     your own layer
  moeref validate --port cpu goldens                    are these files what the reference computes?
  moeref validate --port ./libmy_port.so goldens        what does my implementation make of them?
  moeref validate --port results:my_results goldens     the same for files that it wrote
  moeref check --port ./libmy_port.so --component gate  properties, on inputs that no file holds
  moeref probe --port ./libmy_port.so                   is it deterministic, batch invariant; how does it add up
  moeref agree ./libengine.so ./libtrainer.so           do two implementations route and compute alike
  moeref compare before.json after.json                 what got better or worse between two reports
  moeref bench --port cuda --shape qwen3_30b            times, against dense products and the device's limits
  moeref mutants                                        do the golden files and properties catch bugs?)";

int report_error(const std::string& message, int exit_code) {
  fmt::print(stderr, "moeref: error: {}\n", moeref::one_line(message));
  return exit_code;
}

std::string names_of(const std::vector<moeref::Command>& commands) {
  std::string names;
  for (const moeref::Command& command : commands)
    names += (names.empty() ? "" : ", ") + command.app->get_name();
  return names;
}

}  // namespace

int main(int argc, char** argv) {
  // Not a command of users: what `validate` starts to load a port's library in.
  if (argc == 3 && std::string_view(argv[1]) == "port-host") return moeref::run_port_host(argv[2]);
  // Nor is this one, with or without a port: it answers the Python package.
  if (argc == 2 && std::string_view(argv[1]) == "suite-host") return moeref::print_suite();
  if (argc == 4 && std::string_view(argv[1]) == "suite-host") return moeref::run_suite_host(argv[2], argv[3]);
  CLI::App app("A reference for Mixture-of-Experts layers: golden files, and verdicts on implementations.",
               "moeref");
  app.set_version_flag("--version", "moeref " MOEREF_VERSION);
  app.require_subcommand(1);
  const std::vector<moeref::Command> commands{moeref::list_command(app),     moeref::generate_command(app),
                                              moeref::validate_command(app), moeref::check_command(app),
                                              moeref::inspect_command(app),  moeref::bench_command(app),
                                              moeref::probe_command(app),    moeref::agree_command(app),
                                              moeref::compare_command(app),  moeref::mutants_command(app)};
  app.footer(kFooter);  // after the commands, which would inherit it
  try {
    const auto named = [&](const moeref::Command& command) { return command.app->check_name(argv[1]); };
    if (argc > 1 && argv[1][0] != '-' && std::ranges::none_of(commands, named))
      throw moeref::InputError(
          fmt::format("unknown command '{}': want one of {}", argv[1], names_of(commands)));
    app.parse(argc, argv);
    for (const moeref::Command& command : commands)
      if (command.app->parsed()) return command.run();
    return report_error("no command was given", moeref::kExitBadInput);
  } catch (const CLI::Success& asked) {  // --help and --version
    return app.exit(asked);
  } catch (const CLI::ParseError& error) {
    return report_error(std::string(error.what()) + " (moeref --help)", moeref::kExitBadInput);
  } catch (const moeref::InputError& error) {
    return report_error(error.what(), moeref::kExitBadInput);
  } catch (const std::bad_alloc&) {
    return report_error("not enough memory for a case of this size", moeref::kExitBadInput);
  } catch (const std::exception& error) {
    return report_error(std::string("internal: ") + error.what(), moeref::kExitCrashed);
  }
}
