// The shape of a model.
#pragma once

#include "core/config.h"

namespace itemloom {

struct ModelConfig {
  std::string name = "bert4rec";
  int64_t hidden_size = 64;
  int64_t layers = 2;
  int64_t heads = 2;
  int64_t inner_size = 0;
  double dropout = 0.1;
  double attention_dropout = 0.1;
  std::string norm = "pre";
  double norm_epsilon = 1e-6;
  std::string activation = "gelu";
  bool head_transform = true;
  bool output_bias = true;
  bool tied_output = true;
  double initial_std = 0.02;

  // The inner size meant: 4 * hidden_size where it is not given.
  int64_t effective_inner_size() const { return inner_size > 0 ? inner_size : 4 * hidden_size; }

  template <class Visitor>
  void describe(Visitor& visit) {
    visit.field("name", name, {.help = "The kind of model.", .choices = {"bert4rec"}});
    visit.field("hidden_size", hidden_size,
                {.help = "Width of embeddings and layers; heads divide it.", .minimum = 4, .maximum = 8192});
    visit.field("layers", layers, {.help = "Blocks of attention and feed-forward.", .minimum = 1, .maximum = 256});
    visit.field("heads", heads, {.help = "Attention heads of a block.", .minimum = 1, .maximum = 256});
    visit.field("inner_size", inner_size,
                {.help = "Width inside the feed-forward; 0: 4 * hidden_size.", .minimum = 0, .maximum = 65536});
    visit.field("dropout", dropout,
                {.help = "Share of hidden values dropped in training.", .minimum = 0.0, .below = 1.0});
    visit.field("attention_dropout", attention_dropout,
                {.help = "Share of attention weights dropped in training.", .minimum = 0.0, .below = 1.0});
    visit.field("norm", norm,
                {.help = "pre: normalise before each sublayer and once at the end; post: after each residual sum.",
                 .choices = {"pre", "post"}});
    visit.field("norm_epsilon", norm_epsilon,
                {.help = "Added to the variance in a normalisation.", .above = 0.0, .maximum = 1.0});
    visit.field(
        "activation", activation,
        {.help = "gelu: with erf; gelu_tanh: its tanh approximation; relu.", .choices = {"gelu", "gelu_tanh", "relu"}});
    visit.field("head_transform", head_transform,
                {.help = "Dense, activation and normalisation between the encoder and the output table."});
    visit.field("output_bias", output_bias, {.help = "One learned bias for each item's score."});
    visit.field("tied_output", tied_output, {.help = "The output table is the table of item embeddings."});
    visit.field("initial_std", initial_std,
                {.help = "Standard deviation of the initial weights.", .above = 0.0, .maximum = 1.0});
  }
};

}  // namespace itemloom
