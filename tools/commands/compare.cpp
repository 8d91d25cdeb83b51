// moeref compare: two reports of `moeref validate`.
#include <fmt/core.h>

#include <cstdio>
#include <filesystem>
#include <memory>

#include "tools/commands/commands.hpp"
#include "tools/report/comparison.hpp"
#include "tools/report/report_file.hpp"
#include "tools/terminal/terminal.hpp"

namespace moeref {
namespace {

struct CompareOptions {
  std::filesystem::path before, after, html;
};

int compare(const CompareOptions& options) {
  ReportFile html(options.html);
  const ReportComparison comparison = compare_reports(options.before, options.after);
  fmt::print("{}", comparison_text(comparison, shows_colours(stdout)));
  if (html.wanted()) html.write(comparison_html(comparison));
  return comparison.worse.empty() ? kExitPassed : kExitFailed;
}

}  // namespace

Command compare_command(CLI::App& parent) {
  const auto options = std::make_shared<CompareOptions>();
  CLI::App* app = parent.add_subcommand("compare", "Two JSON reports of validate: what got better or worse");
  app->add_option("BEFORE", options->before, "The earlier report (validate --json)")
      ->required()
      ->type_name("");
  app->add_option("AFTER", options->after, "The later one; exit code 1 where a case got worse")
      ->required()
      ->type_name("");
  app->add_option("--html", options->html, "Write the comparison as one HTML page to this file")
      ->type_name("FILE");
  return {app, [options] { return compare(*options); }};
}

}  // namespace moeref
