// exec:COMMAND, a program in any language: requests on its stdin, answers on its stdout, tensors in
// golden files.
#include <fmt/core.h>

#include <cstdlib>
#include <memory>

#include "moeref/config.hpp"
#include "moeref/error.hpp"
#include "moeref/golden_file.hpp"
#include "tools/ports/conversation.hpp"
#include "tools/ports/isolated_port.hpp"

namespace moeref {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

/// Of its own for this run, removed with what it holds.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "moeref-exec-XXXXXX").string();
    if (!::mkdtemp(name.data())) throw InputError(name + ": the folder for a port's files cannot be made");
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  fs::path operator/(const std::string& name) const { return path_ / name; }

 private:
  fs::path path_;
};

/// The file of one request, deleted with this object.
struct RequestFile {
  fs::path path;
  explicit RequestFile(fs::path path) : path(std::move(path)) {}
  ~RequestFile() {
    std::error_code ignored;
    fs::remove(path, ignored);
  }
  RequestFile(const RequestFile&) = delete;
  RequestFile& operator=(const RequestFile&) = delete;
};

class ExecPort final : public IsolatedPort {
 public:
  ExecPort(std::string command, const PortSettings& settings)
      : command_(std::move(command)), settings_(settings) {
    start();
  }
  ~ExecPort() override {
    if (talk_) talk_->close();
  }

  std::string name() const override { return "exec:" + command_; }

  PortOutcome run(const fs::path& golden_file, const Call& call) override {
    case_ = golden_file.stem().string();
    return IsolatedPort::run(golden_file, call);
  }

 protected:
  /// One process: capabilities_.processes() is never more.
  RankOutcomes attempt(const RankShares& ranks, Poison) override { return {attempt(ranks.call(0))}; }

  void end_processes() override { talk_.reset(); }

 private:
  PortOutcome attempt(const Call& call) {
    if (!talk_) try {
        start();
      } catch (const InputError& error) {
        return {{},
                Verdict::crashed,
                std::string("broke the protocol: cannot be started again: ") + error.what()};
      }
    const std::string number = std::to_string(++requests_);
    const RequestFile input(folder_ / (number + ".h5")), output(folder_ / (number + ".out.h5"));
    GoldenFile question;
    question.case_name = case_.empty() ? "call" : case_;
    question.producer = "moeref " MOEREF_VERSION;
    question.allow_nonfinite = true;
    question.call = call;
    write_call(input.path, question);
    PortOutcome outcome = talk_->ask({{"request", "run"},
                                      {"case", question.case_name},
                                      {"component", moeref::name(call.component)},
                                      {"backward", call.backward},
                                      {"input", input.path.string()},
                                      {"output", output.path.string()}});
    if (!talk_->running()) end_processes();
    if (outcome.verdict != Verdict::pass) return outcome;
    return read(output.path);
  }

  static PortOutcome read(const fs::path& file) {
    if (!fs::exists(file)) return {{}, Verdict::fail, "the port answered ok and wrote no results file"};
    try {
      PortOutcome outcome;
      outcome.results = read_results(file);
      return outcome;
    } catch (const InputError& error) {
      return {{}, Verdict::fail, std::string("the port wrote an unreadable results file: ") + error.what()};
    }
  }

  void start() {
    talk_ = std::make_unique<Conversation>(
        PortProcess::Command{"/bin/sh", {"/bin/sh", "-c", command_}, false, -1}, settings_.limit);
    try {
      capabilities_ = parse_capabilities(
          talk_->ask_first({{"moeref", 1}, {"request", "hello"}}, name(), "in answer to hello"));
      capabilities_.max_processes = 1;  // programs have no exchange
    } catch (const InputError& error) {
      talk_.reset();
      const std::string text = error.what();
      throw InputError(text.starts_with(name()) ? text : name() + ": " + text);
    }
  }

  std::string command_, case_;
  PortSettings settings_;
  TemporaryFolder folder_;
  std::int64_t requests_ = 0;
  std::unique_ptr<Conversation> talk_;
};

}  // namespace

std::unique_ptr<Port> make_exec_port(const std::string& command, const PortSettings& settings) {
  if (command.empty()) throw InputError("the port 'exec:' names no program: want exec:COMMAND");
  return std::make_unique<ExecPort>(command, settings);
}

}  // namespace moeref
