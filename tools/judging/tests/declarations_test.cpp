// Ports whose float32 products round operands to TF32: right where they declare it, wrong where they do not,
// and wrong where they round to fewer bits than they declare.
#include <string>
#include <vector>

#include "tools/tests/holds.hpp"
#include "tools/tests/run_command.hpp"

namespace moeref::testing {
namespace {

class DeclaredProductsTest : public CommandTest {
 protected:
  /// `moeref validate` of float32 cases whose values are no small integers.
  Finished validate(const std::string& port) {
    std::vector<std::string> arguments{"validate", "--port", eager(port)};
    for (const char* name : {"gate__aux_sigmoid", "mlp__swiglu", "experts__beyond_the_clamps", "moe__shared"})
      arguments.push_back(std::string(MOEREF_CASES) + "/" + name + ".h5");
    return run_moeref(arguments);
  }
  static Finished check(const std::string& port) {
    return run_moeref({"check", "--port", eager(port), "--component", "mlp", "--cases", "20", "--seed", "4"});
  }
  static std::string eager(const std::string& port) {
    return std::string(MOEREF_EAGER_PORTS) + "/libeager_" + port + ".so";
  }
};

TEST_F(DeclaredProductsTest, Tf32ThatIsDeclaredIsRight) {
  const Finished validated = validate("tf32");
  EXPECT_EQ(validated.exit_code, 0) << validated.out << validated.err;
  EXPECT_TRUE(holds(validated.out, "float32 products are tf32, as it declares")) << validated.out;
  const Finished checked = check("tf32");
  EXPECT_EQ(checked.exit_code, 0) << checked.out << checked.err;
  EXPECT_TRUE(holds(checked.out, "tf32 products declared")) << checked.out;
}

TEST_F(DeclaredProductsTest, Tf32ThatIsNotDeclaredIsWrong) {
  EXPECT_EQ(validate("undeclared_tf32").exit_code, 1);
  EXPECT_EQ(check("undeclared_tf32").exit_code, 1);
}

TEST_F(DeclaredProductsTest, BFloat16ThatIsDeclaredAsTf32IsWrong) {
  EXPECT_EQ(validate("coarse_tf32").exit_code, 1);
  const Finished checked = check("coarse_tf32");
  EXPECT_EQ(checked.exit_code, 1);
  EXPECT_TRUE(holds(checked.out, " products=tf32 ")) << checked.out;  // in the line that repeats the failure
}

}  // namespace
}  // namespace moeref::testing
