#include "tools/tests/run_command.hpp"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>

namespace moeref::testing {

namespace fs = std::filesystem;

namespace {

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> out;
  for (std::string& text : texts) out.push_back(text.data());
  out.push_back(nullptr);
  return out;
}

/// A file without a name of its own for what the command prints: pipes could fill and block it.
class Capture {
 public:
  Capture() : path_((fs::temp_directory_path() / "moeref_capture_XXXXXX").string()) {
    file_ = ::mkstemp(path_.data());
  }
  ~Capture() {
    ::close(file_);
    ::unlink(path_.c_str());
  }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  int file() const { return file_; }
  std::string text() const { return text_of(path_); }

 private:
  std::string path_;
  int file_ = -1;
};

}  // namespace

std::string text_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

Finished run_moeref(const std::vector<std::string>& arguments, const std::vector<std::string>& environment) {
  std::vector<std::string> words{MOEREF_COMMAND};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<std::string> variables = environment;
  for (char** entry = environ; *entry; ++entry) {
    // A name that stands twice has the first value for some readers and the last for others.
    const std::string_view text = *entry, name = text.substr(0, text.find('=') + 1);
    if (std::ranges::none_of(environment, [&](const auto& own) { return own.starts_with(name); }))
      variables.emplace_back(text);
  }

  const Capture out, err;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, out.file(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, err.file(), STDERR_FILENO);
  pid_t child = 0;
  const int error = ::posix_spawn(&child, MOEREF_COMMAND, &actions, nullptr, pointers(words).data(),
                                  pointers(variables).data());
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return {};

  int status = 0;
  ::waitpid(child, &status, 0);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), out.text(), err.text()};
}

std::string bad_input_line(const Finished& finished) {
  const std::string start = "moeref: error: ";
  EXPECT_EQ(finished.exit_code, 2) << finished.err;
  EXPECT_EQ(finished.out, "");
  EXPECT_EQ(std::ranges::count(finished.err, '\n'), 1) << finished.err;
  EXPECT_TRUE(finished.err.starts_with(start) && finished.err.ends_with('\n')) << finished.err;
  if (!finished.err.starts_with(start)) return finished.err;
  return finished.err.substr(start.size(), finished.err.size() - start.size() - 1);
}

void CommandTest::SetUp() {
  const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
  std::string name = "moeref_" + std::string(test->name()) + "_" + std::to_string(::getpid());
  std::ranges::replace(name, '/', '_');  // parameterised tests
  folder_ = fs::temp_directory_path() / name;
  fs::create_directories(folder_);
}

void CommandTest::TearDown() { fs::remove_all(folder_); }

std::vector<std::string> CommandTest::names() const {
  std::vector<std::string> out;
  for (const auto& entry : fs::recursive_directory_iterator(folder_))
    out.push_back(fs::relative(entry.path(), folder_).string());
  std::ranges::sort(out);
  return out;
}

fs::path CommandTest::copy_case(const std::string& name, const fs::path& folder) const {
  fs::create_directories(folder);
  const fs::path copy = folder / (name + ".h5");
  fs::copy_file(fs::path(MOEREF_DOCUMENTED_SYSTEM) / (name + ".h5"), copy);
  fs::permissions(copy, fs::perms::owner_write, fs::perm_options::add);
  return copy;
}

}  // namespace moeref::testing
