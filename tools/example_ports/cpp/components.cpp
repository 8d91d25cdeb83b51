#include "components.hpp"

#include "expert_parallel.hpp"
#include "gate.hpp"
#include "mlp.hpp"

namespace example {

void run_gate(const Call& call) {
  const GateConfig config(call);
  const Matrix x = call.matrix("inputs/x", call.config.integer("dim"));
  const std::vector<bool> real = call.real_tokens("inputs/token_mask", false, x.rows);
  const Routing routing = route(call, config, "", x, real);
  write_routing(call, routing);
  if (!call.backward()) return;
  const Matrix d_weights = call.matrix("cotangents/weights", config.k);
  call.write("grads/x", route_backward(call, config, "", x, real, routing, d_weights));
}

void run_mlp_component(const Call& call) {
  const JsonFields& c = call.config;
  const MLPShape shape{c.integer("dim"), c.integer("inter_dim"), c.text("activation"),
                       c.number("swiglu_limit"), c.flag("bias")};
  const Matrix x = call.matrix("inputs/x", shape.dim);
  Matrix dy, d_x;
  if (call.backward()) dy = call.matrix("cotangents/y", shape.dim);
  call.write("outputs/y", run_mlp(call, "", shape, x, call.backward() ? &dy : nullptr, &d_x));
  if (call.backward()) call.write("grads/x", d_x);
}

void run_experts_component(const Call& call) {
  const bool latent = !call.config.null("moe_latent_size");
  const long dim = call.config.integer(latent ? "moe_latent_size" : "dim"),
             k = call.config.integer("n_activated_experts");
  const Matrix x = call.matrix("inputs/x", dim), weights = call.matrix("inputs/weights", k);
  const std::vector<std::int64_t> ids = call.integers("inputs/indices");
  const std::vector<bool> real = call.real_tokens("inputs/token_mask", false, x.rows);
  Matrix dy;
  ExpertGradients gradients;
  if (call.backward()) dy = call.matrix("cotangents/y", dim);
  call.write("outputs/y",
             run_experts(call, "", x, {ids, weights, real}, call.backward() ? &dy : nullptr, &gradients));
  if (!call.backward()) return;
  call.write("grads/x", gradients.x);
  call.write("grads/weights", gradients.weights);
}

void run_moe(const Call& call) {
  const JsonFields& c = call.config;
  need(!call.options.flag("fake_balanced_gate"), "no fake balanced gate");
  need(c.null("moe_latent_size"), "no latent projections");
  need(!c.flag("shared_expert_gate"), "no gate on the shared experts");
  const GateConfig config(call);
  const Matrix x = call.matrix("inputs/x", c.integer("dim"));
  const std::vector<bool> real = call.real_tokens("inputs/padding_mask", true, x.rows);
  Matrix dy;
  if (call.backward()) dy = call.matrix("cotangents/y", x.cols);
  const Matrix* d_y = call.backward() ? &dy : nullptr;

  const Routing routing = route(call, config, "gate.", x, real);
  write_routing(call, routing);
  ExpertGradients gradients;
  Matrix y = run_experts(call, "experts.", x, {routing.ids, routing.weights, real}, d_y, &gradients);
  if (call.backward())
    add(gradients.x, route_backward(call, config, "gate.", x, real, routing, gradients.weights));
  if (const long shared = c.integer("n_shared_experts"); shared > 0) {
    const long width =
        c.integer(c.null("shared_expert_inter_dim") ? "moe_inter_dim" : "shared_expert_inter_dim");
    const MLPShape shape{x.cols, shared * width, c.text("shared_expert_activation"), c.number("swiglu_limit"),
                         c.flag("expert_bias")};
    Matrix d_x;
    add(y, run_mlp(call, "shared_experts.", shape, x, d_y, &d_x));
    if (call.backward()) add(gradients.x, d_x);
  }
  call.write("outputs/y", y);
  if (call.backward()) call.write("grads/x", gradients.x);
}

}  // namespace example
