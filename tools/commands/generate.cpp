// moeref generate: golden files of the catalogue, of a preset, or of a user's own layer.
#include <fmt/core.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <mutex>

#include "golden/catalogue/case_size.hpp"
#include "golden/catalogue/drawn_case.hpp"
#include "golden/catalogue/generate.hpp"
#include "golden/catalogue/recipes.hpp"
#include "golden/format/manifest.hpp"
#include "moeref/error.hpp"
#include "reference_cpu/arithmetic/parallel_for.hpp"
#include "tools/commands/changed_cases.hpp"
#include "tools/commands/commands.hpp"
#include "tools/commands/file_batch.hpp"
#include "tools/commands/user_layer.hpp"
#include "tools/terminal/progress.hpp"

namespace moeref {
namespace {

namespace fs = std::filesystem;

/// Cases that take up to this much memory are computed one per core; larger ones one after the other, each on
/// all cores.
constexpr double kLargeCase = 64e6;

struct GenerateOptions {
  fs::path out, config;
  std::vector<std::string> components, cases;
  std::vector<std::string> settings;
  std::string preset, dtype, profile, mask;
  std::int64_t align = 1;
  bool full_width = false, drawn = false;
  std::optional<std::int64_t> tokens;
  std::optional<std::uint64_t> seed;
};

/// The recipes that the command line selects; all when it names none.
std::vector<CaseSpec> from_catalogue(const GenerateOptions& options,
                                     const std::vector<Component>& components) {
  std::vector<CaseSpec> chosen;
  for (const std::string& wanted : options.cases)
    if (std::ranges::none_of(recipes(),
                             [&](const CaseSpec& s) { return s.name == wanted || full_name(s) == wanted; }))
      throw InputError("no case has the name '" + wanted + "': moeref list cases shows them");
  for (const CaseSpec& spec : recipes()) {
    const bool component =
        components.empty() || std::ranges::find(components, spec.component) != components.end();
    const bool named =
        options.cases.empty() || std::ranges::any_of(options.cases, [&](const std::string& wanted) {
          return spec.name == wanted || full_name(spec) == wanted;
        });
    if (component && named) chosen.push_back(spec);
  }
  if (chosen.empty()) throw InputError("no case of the catalogue is of these components and names");
  return chosen;
}

std::vector<CaseSpec> selected(const GenerateOptions& options) {
  LayerRequest request;
  for (const std::string& text : options.components) request.components.push_back(parse_component(text));
  request.tokens = options.tokens;
  request.seed = options.seed;
  if (!options.dtype.empty()) {
    request.dtype = parse_dtype(options.dtype);
    if (!is_floating(*request.dtype))
      throw InputError("--dtype is " + options.dtype + ": want float64, float32, bfloat16 or float16");
  }
  const bool layer = !options.preset.empty() || !options.config.empty();
  if (!options.preset.empty() && !options.config.empty())
    throw InputError("--preset and --config exclude each other");
  if (options.full_width && options.preset.empty()) throw InputError("--full-width belongs to --preset");
  if (options.drawn && !layer) throw InputError("--drawn belongs to --preset and --config");
  if (layer && !options.cases.empty())
    throw InputError("--case selects from the catalogue, not with --preset or --config");
  if (!layer && (request.tokens || request.dtype || request.seed))
    throw InputError("--tokens, --dtype and --seed belong to --preset and --config: the catalogue is fixed");
  if (!options.preset.empty()) return preset_layer(options.preset, options.full_width, request);
  if (!options.config.empty()) return user_layer(options.config, request);
  return from_catalogue(options, request.components);
}

/// Errors of a user's own layer begin with its file, all others with the case.
template <typename Work>
auto naming_source(const GenerateOptions& options, const CaseSpec& spec, Work&& work) {
  try {
    return work();
  } catch (const InputError& error) {
    const std::string text = error.what();
    if (!options.config.empty()) throw InputError(options.config.string() + ": " + text);
    if (text.starts_with("case '")) throw;
    throw InputError("case '" + label(spec) + "': " + text);
  }
}

/// Made when there is something to put into it, so that bad input leaves nothing behind.
void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw InputError(folder.string() + ": cannot be made: " + error.message());
}

/// Writes the files, all of them or none.
void generate_all(const GenerateOptions& options, const std::vector<CaseSpec>& specs,
                  const std::vector<double>& bytes) {
  std::vector<std::size_t> small, large;
  for (std::size_t i = 0; i < specs.size(); ++i)
    (bytes[i] > kLargeCase || options.drawn ? large : small).push_back(i);
  Progress progress("generate", specs.size());
  std::mutex writing;  // HDF5 takes one thread at a time
  FileBatch batch;
  const auto generate = [&](std::size_t i) {
    const CaseSpec& spec = specs[i];
    progress.start(label(spec));
    if (options.drawn) {
      const DrawnCase made = naming_source(options, spec, [&] { return make_drawn_case(spec); });
      make_folder(options.out);
      std::ofstream(batch.hidden(options.out / drawn_file_name(spec))) << to_text(made);
      progress.finish();
      return;
    }
    const GeneratedCase made = naming_source(options, spec, [&] { return generate_case(spec); });
    const std::lock_guard lock(writing);
    make_folder(options.out);
    write_golden(batch.hidden(options.out / file_name(spec)), made.file, made.evaluation);
    progress.finish();
  };
  parallel_for(static_cast<std::int64_t>(small.size()),
               [&](std::int64_t i) { generate(small[static_cast<std::size_t>(i)]); });
  for (const std::size_t i : large) generate(i);
  batch.commit();
}

CaseChanges asked_changes(const GenerateOptions& options) {
  CaseChanges own;
  for (const std::string& setting : options.settings) own.fields.push_back(parse_setting(setting));
  own.align = options.align;
  own.mask = options.mask;
  return with_profile(options.profile, std::move(own));
}

std::string profile_help() {
  std::string help = "Every case as such implementations have it:";
  for (const Profile& profile : profiles())
    help += fmt::format("\n  {}: {}", profile.name, profile.stands_for);
  return help;
}

int generate(const GenerateOptions& options) {
  if (options.out.empty()) throw InputError("--out is empty: want a folder");
  if (fs::exists(options.out) && !fs::is_directory(options.out))
    throw InputError(options.out.string() + ": is no folder: --out wants one");
  const auto [specs, left_out] = changed(selected(options), asked_changes(options));
  for (const std::string& reason : left_out) fmt::print(stderr, "left out: {}\n", reason);
  std::vector<double> bytes;
  for (const CaseSpec& spec : specs) {
    bytes.push_back(naming_source(options, spec, [&] { return bytes_of(spec); }));
    if (bytes.back() > memory_of_machine())
      throw InputError(fmt::format("{}: takes at least {:.1f} GiB and this machine has {:.1f} GiB",
                                   file_name(spec), bytes.back() / (1u << 30),
                                   memory_of_machine() / (1u << 30)));
  }
  generate_all(options, specs, bytes);
  // The catalogue has a manifest, and one that is there stays true; hashing the gigabytes of a single layer
  // would take longer than computing them.
  const bool manifest = (specs.size() > 1 && !options.drawn) || fs::exists(options.out / kManifestName);
  if (manifest) write_manifest(options.out);
  double written = 0.0;
  for (const CaseSpec& spec : specs)
    written += static_cast<double>(
        fs::file_size(options.out / (options.drawn ? drawn_file_name(spec) : file_name(spec))));
  if (!options.config.empty() && specs.front().name != options.config.stem().string())
    fmt::print(stderr, "{}: its case is named {}: lower-case letters, digits, '_' and '.'\n",
               options.config.string(), specs.front().name);
  fmt::print("{} golden file{} ({:.2f} MB){} in {}\n", specs.size(), specs.size() == 1 ? "" : "s",
             written / 1e6, manifest ? fmt::format(" and {}", kManifestName) : "", options.out.string());
  return kExitPassed;
}

}  // namespace

Command generate_command(CLI::App& parent) {
  CLI::App* app =
      parent.add_subcommand("generate", "Compute golden files: the catalogue, a model's layer, or your own");
  const auto o = std::make_shared<GenerateOptions>();
  app->add_option("--out", o->out, "The folder to write to")->required()->type_name("DIR");
  add_components(*app, o->components, "Only these components (moeref list components)");
  app->add_option("--case", o->cases, "Only these cases of the catalogue (moeref list cases)")
      ->type_name("NAME");
  app->add_option("--preset", o->preset,
                  "One layer of a published model (moeref list presets), at reduced width")
      ->type_name("P");
  app->add_flag("--full-width", o->full_width, "The preset's layer at its real width");
  app->add_option("--config", o->config,
                  "Your own layer: a JSON file with MoEConfig's fields, or with component, config and call")
      ->type_name("FILE");
  app->add_option("--set", o->settings,
                  "Every case with this field of its config set (moeref list fields); may come several times")
      ->type_name("FIELD=VALUE")
      ->allow_extra_args(false);
  app->add_option("--align", o->align,
                  "Every case with rows of a multiple of so many bytes, which grouped kernels want (1)")
      ->check(CLI::Range(1, 4096))
      ->type_name("BYTES");
  app->add_option("--mask", o->mask, "Every case with this kind of mask: absent, none, all, random, ...")
      ->type_name("KIND");
  app->add_option("--profile", o->profile, profile_help())->type_name("NAME");
  app->add_flag("--drawn", o->drawn,
                "Write a few kilobytes: the description, hashes of the inputs, and elements of the results; "
                "inputs are drawn where the case is judged");
  app->add_option("--tokens", o->tokens, "Tokens of a preset's or your own layer (64)")->type_name("N");
  app->add_option("--dtype", o->dtype, "Its dtype: float64, float32, bfloat16 or float16")->type_name("D");
  app->add_option("--seed", o->seed, "Seed of its data (1)")->type_name("S");
  return {app, [o] { return generate(*o); }};
}

}  // namespace moeref
