// results:DIR, files that a port wrote beforehand. The port may be in any language.
#include <algorithm>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "moeref/error.hpp"
#include "moeref/golden_file.hpp"
#include "reference_cpu/call/conventions.hpp"
#include "tools/ports/port.hpp"

namespace moeref {
namespace {

namespace fs = std::filesystem;

class ResultsPort final : public Port {
 public:
  explicit ResultsPort(fs::path folder) : folder_(std::move(folder)) {
    std::ifstream in(folder_ / kConventions);
    for (std::string line; std::getline(in, line);) conventions_.push_back(line);
  }

  std::string name() const override { return "results:" + folder_.string(); }

  /// Reads every file once, so that a damaged one is told before an hour of work and not after it.
  void prepare(std::span<const fs::path> golden_files) override {
    std::size_t there = 0;
    for (const fs::path& golden : golden_files) {
      const fs::path file = results_of(golden);
      if (fs::exists(reason_of(golden))) ++there;
      if (!fs::exists(file)) continue;
      std::error_code error;
      if (fs::equivalent(file, golden, error))
        throw InputError(file.string() + ": is the golden file itself, which says nothing about a port");
      read_results(file);
      ++there;
    }
    if (there == 0)
      throw InputError(folder_.string() +
                       ": holds no results file for any of these cases; want, for example, " +
                       results_of(golden_files.front()).string());
  }

  PortOutcome run(const fs::path& golden_file, const Call& call) override {
    const fs::path file = results_of(golden_file);
    if (auto unknown = undeclared_convention(call, (folder_ / kConventions).string(), conventions_))
      return {{}, Verdict::not_supported, *std::move(unknown)};
    if (!fs::exists(file) && fs::exists(reason_of(golden_file)))
      return {{}, Verdict::not_supported, first_line(reason_of(golden_file))};
    if (!fs::exists(file))
      return {{}, Verdict::fail, "the port gave no results: there is no " + file.string()};
    return {read_results(file), Verdict::pass, ""};
  }

 private:
  fs::path results_of(const fs::path& golden_file) const { return folder_ / golden_file.filename(); }

  /// In a results file's place: why the port does not support the case.
  fs::path reason_of(const fs::path& golden_file) const {
    return results_of(golden_file).replace_extension(".not_supported");
  }
  static std::string first_line(const fs::path& file) {
    std::string line(200, '\0');
    std::ifstream in(file);
    in.read(line.data(), static_cast<std::streamsize>(line.size()));
    line.resize(static_cast<std::size_t>(in.gcount()));
    line.erase(std::min(line.find('\n'), line.size()));
    return line.empty() ? "the port gives no reason" : line;
  }

  static constexpr const char* kConventions =
      "conventions.txt";  ///< those that the port knows, a name a line

  fs::path folder_;
  std::vector<std::string> conventions_;
};

}  // namespace

std::unique_ptr<Port> make_results_port(const fs::path& folder) {
  if (folder.empty()) throw InputError("the port 'results:' names no folder: want results:DIR");
  if (!fs::is_directory(folder)) throw InputError(folder.string() + ": is no folder with results files");
  return std::make_unique<ResultsPort>(folder);
}

}  // namespace moeref
