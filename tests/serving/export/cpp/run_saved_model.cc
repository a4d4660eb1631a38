// Runs signatures of a SavedModel without Python, as a TensorFlow server does: through the session
// that TF_LoadSessionFromSavedModel makes, with tensors found by the names in the SignatureDef.
//
//   run_saved_model DIRECTORY [--no-xla] [LIBRARY ...]
//
// LIBRARY is a shared library of operations, such as those of TF Text. --no-xla forbids XLA, as a
// server does unless it is started with a flag. Requests come on standard input, one line each:
//
//   SIGNATURE NAME TYPE RANK SIZE... VALUE... NAME TYPE ...
//
// TYPE is int32, int64, float or string; a string is written as "x" and its bytes in hexadecimal.
// The answer is a line in the same form that begins with "ok", or "error" and a message. Inputs
// that are left out get the values of SignatureDef.defaults, as in TensorFlow Serving 2.14.
#include <cstdint>
#include <cstring>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "tensorflow/c/c_api.h"
#include "tensorflow/c/tf_tensor.h"
#include "tensorflow/c/tf_tstring.h"

namespace tensorflow {
void DisableXlaCompilation();  // tensorflow/compiler/jit/flags.h, which needs many other headers
}

namespace {

using Bytes = std::string;

void Check(bool good, const std::string& what) {
  if (!good) throw std::runtime_error(what);
}

// A TF_Status that throws.
class Status {
 public:
  Status() : status_(TF_NewStatus()) {}
  ~Status() { TF_DeleteStatus(status_); }
  TF_Status* get() { return status_; }
  void Check() { ::Check(TF_GetCode(status_) == TF_OK, TF_Message(status_)); }

 private:
  TF_Status* status_;
};

// The wire format of protocol buffers: calls back with each field's number and what it holds.
struct Field {
  uint64_t number = 0;    // of a varint or a fixed-size field
  Bytes bytes;            // of a message, a string or packed numbers
  bool is_bytes = false;
};

uint64_t Varint(const Bytes& data, size_t* at) {
  uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    Check(*at < data.size(), "a protocol buffer ends too early");
    const uint8_t byte = data[(*at)++];
    value |= static_cast<uint64_t>(byte & 127) << shift;
    if (byte < 128) return value;
  }
  throw std::runtime_error("a number in a protocol buffer is too long");
}

void ForEachField(const Bytes& data, const std::function<void(int, const Field&)>& found) {
  size_t at = 0;
  while (at < data.size()) {
    const uint64_t tag = Varint(data, &at);
    Field field;
    const int kind = tag & 7;
    if (kind == 0) {
      field.number = Varint(data, &at);
    } else {
      Check(kind == 1 || kind == 2 || kind == 5, "a protocol buffer has an unknown wire type");
      const size_t size = kind == 2 ? Varint(data, &at) : kind == 1 ? 8 : 4;
      Check(size <= data.size() - at, "a protocol buffer ends too early");
      field.bytes = data.substr(at, size);
      field.is_bytes = kind == 2;
      at += size;
    }
    found(tag >> 3, field);
  }
}

// The first field of a message with this number, as bytes; empty when there is none.
Bytes Get(const Bytes& message, int wanted) {
  Bytes result;
  ForEachField(message, [&](int number, const Field& field) {
    if (number == wanted) result = field.bytes;
  });
  return result;
}

struct Signature {
  std::map<std::string, std::string> inputs, outputs;  // to names of tensors
  std::map<std::string, Bytes> defaults;               // to TensorProto
};

// MetaGraphDef.signature_def (5): a map to SignatureDef {inputs 1, outputs 2, defaults 4}, whose
// TensorInfo holds the tensor's name (1).
std::map<std::string, Signature> Signatures(const Bytes& meta_graph) {
  std::map<std::string, Signature> signatures;
  ForEachField(meta_graph, [&](int number, const Field& entry) {
    if (number != 5) return;
    Signature& signature = signatures[Get(entry.bytes, 1)];
    ForEachField(Get(entry.bytes, 2), [&](int part, const Field& item) {
      if (part != 1 && part != 2 && part != 4) return;
      const std::string key = Get(item.bytes, 1);
      const Bytes value = Get(item.bytes, 2);
      if (part == 1) signature.inputs[key] = Get(value, 1);
      if (part == 2) signature.outputs[key] = Get(value, 1);
      if (part == 4) signature.defaults[key] = value;
    });
  });
  return signatures;
}

using Tensor = std::unique_ptr<TF_Tensor, void (*)(TF_Tensor*)>;

int64_t Count(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

Tensor Allocate(TF_DataType type, const std::vector<int64_t>& shape) {
  const size_t width = type == TF_STRING ? sizeof(TF_TString) : TF_DataTypeSize(type);
  return Tensor(TF_AllocateTensor(type, shape.data(), shape.size(), width * Count(shape)),
                TF_DeleteTensor);
}

Tensor Strings(const std::vector<int64_t>& shape, const std::vector<Bytes>& values) {
  Tensor tensor = Allocate(TF_STRING, shape);
  auto* data = static_cast<TF_TString*>(TF_TensorData(tensor.get()));
  for (size_t i = 0; i < values.size(); ++i) {
    TF_TString_Init(&data[i]);
    TF_TString_Copy(&data[i], values[i].data(), values[i].size());
  }
  return tensor;
}

// TensorProto {dtype 1, tensor_shape 2, tensor_content 4, float_val 5, int_val 7, string_val 8,
// int64_val 10}; a value that is repeated may be there once.
Tensor FromProto(const Bytes& proto) {
  TF_DataType type = TF_FLOAT;
  std::vector<int64_t> shape;
  std::vector<Bytes> strings, numbers;  // numbers as their little-endian bytes
  Bytes content;
  ForEachField(proto, [&](int number, const Field& field) {
    if (number == 1) type = static_cast<TF_DataType>(field.number);
    if (number == 2) {
      ForEachField(field.bytes, [&](int part, const Field& dim) {
        if (part != 2) return;
        int64_t size = 0;
        ForEachField(dim.bytes, [&](int n, const Field& f) {
          if (n == 1) size = f.number;
        });
        shape.push_back(size);
      });
    }
    if (number == 4) content = field.bytes;
    if (number == 8) strings.push_back(field.bytes);
    if (number == 5) {
      for (size_t at = 0; at + 4 <= field.bytes.size(); at += 4)
        numbers.push_back(field.bytes.substr(at, 4));
    }
    if (number == 7 || number == 10) {
      std::vector<uint64_t> values;
      if (field.is_bytes) {
        for (size_t at = 0; at < field.bytes.size();) values.push_back(Varint(field.bytes, &at));
      } else {
        values.push_back(field.number);
      }
      for (const uint64_t value : values)
        numbers.push_back(Bytes(reinterpret_cast<const char*>(&value), number == 7 ? 4 : 8));
    }
  });
  const size_t count = Count(shape);
  if (type == TF_STRING) {
    strings.resize(count, strings.empty() ? Bytes() : strings.back());
    return Strings(shape, strings);
  }
  Tensor tensor = Allocate(type, shape);
  auto* data = static_cast<char*>(TF_TensorData(tensor.get()));
  if (!content.empty()) {
    std::memcpy(data, content.data(), content.size());
    return tensor;
  }
  const size_t width = TF_DataTypeSize(type);
  numbers.resize(count, numbers.empty() ? Bytes(width, '\0') : numbers.back());
  for (size_t i = 0; i < count; ++i) std::memcpy(data + i * width, numbers[i].data(), width);
  return tensor;
}

const std::map<std::string, TF_DataType> kTypes = {
    {"int32", TF_INT32}, {"int64", TF_INT64}, {"float", TF_FLOAT}, {"string", TF_STRING}};

Bytes FromHex(const std::string& text) {
  Bytes bytes;
  for (size_t i = 1; i + 1 < text.size(); i += 2)
    bytes.push_back(static_cast<char>(std::stoi(text.substr(i, 2), nullptr, 16)));
  return bytes;
}

// Reads "TYPE RANK SIZE... VALUE...".
Tensor Read(std::istream& in) {
  std::string type;
  int rank = 0;
  Check(static_cast<bool>(in >> type >> rank), "a tensor has no type or rank");
  Check(kTypes.count(type) > 0, "unknown type " + type);
  std::vector<int64_t> shape(rank);
  for (int64_t& size : shape) in >> size;
  const int64_t count = Count(shape);
  if (type == "string") {
    std::vector<Bytes> values(count);
    std::string word;
    for (Bytes& value : values) {
      Check(static_cast<bool>(in >> word), "a tensor has too few values");
      value = FromHex(word);
    }
    return Strings(shape, values);
  }
  Tensor tensor = Allocate(kTypes.at(type), shape);
  void* data = TF_TensorData(tensor.get());
  for (int64_t i = 0; i < count; ++i) {
    if (type == "int32") in >> static_cast<int32_t*>(data)[i];
    if (type == "int64") in >> static_cast<int64_t*>(data)[i];
    if (type == "float") in >> static_cast<float*>(data)[i];
  }
  Check(!in.fail(), "a tensor has too few values");
  return tensor;
}

void Write(std::ostream& out, const TF_Tensor* tensor) {
  const TF_DataType type = TF_TensorType(tensor);
  for (const auto& known : kTypes)
    if (known.second == type) out << " " << known.first;
  out << " " << TF_NumDims(tensor);
  int64_t count = 1;
  for (int i = 0; i < TF_NumDims(tensor); ++i) {
    out << " " << TF_Dim(tensor, i);
    count *= TF_Dim(tensor, i);
  }
  const void* data = TF_TensorData(tensor);
  const char* digits = "0123456789abcdef";
  for (int64_t i = 0; i < count; ++i) {
    out << " ";
    if (type == TF_INT32) out << static_cast<const int32_t*>(data)[i];
    if (type == TF_INT64) out << static_cast<const int64_t*>(data)[i];
    if (type == TF_FLOAT) out << static_cast<const float*>(data)[i];
    if (type != TF_STRING) continue;
    const auto* text = &static_cast<const TF_TString*>(data)[i];
    const char* bytes = TF_TString_GetDataPointer(text);
    out << "x";
    for (size_t k = 0; k < TF_TString_GetSize(text); ++k)
      out << digits[(bytes[k] >> 4) & 15] << digits[bytes[k] & 15];
  }
}

TF_Output Find(TF_Graph* graph, const std::string& name) {
  const size_t colon = name.rfind(':');
  TF_Operation* operation = TF_GraphOperationByName(graph, name.substr(0, colon).c_str());
  Check(operation != nullptr, "the graph has no tensor " + name);
  return {operation, colon == std::string::npos ? 0 : std::stoi(name.substr(colon + 1))};
}

std::string Answer(TF_Graph* graph, TF_Session* session,
                   const std::map<std::string, Signature>& signatures, const std::string& line) {
  std::istringstream in(line);
  std::string name;
  in >> name;
  Check(signatures.count(name) > 0, "there is no signature " + name);
  const Signature& signature = signatures.at(name);
  std::map<std::string, Tensor> given;
  std::string key;
  while (in >> key) given.emplace(key, Read(in));
  for (const auto& one : signature.defaults)
    if (given.count(one.first) == 0) given.emplace(one.first, FromProto(one.second));
  std::vector<TF_Output> feeds, fetches;
  std::vector<TF_Tensor*> values;
  for (const auto& one : signature.inputs) {
    Check(given.count(one.first) > 0, "the input " + one.first + " is missing");
    feeds.push_back(Find(graph, one.second));
    values.push_back(given.at(one.first).get());
  }
  for (const auto& one : signature.outputs) fetches.push_back(Find(graph, one.second));
  std::vector<TF_Tensor*> results(fetches.size(), nullptr);
  Status status;
  TF_SessionRun(session, nullptr, feeds.data(), values.data(), feeds.size(), fetches.data(),
                results.data(), fetches.size(), nullptr, 0, nullptr, status.get());
  status.Check();
  std::ostringstream out;
  out.precision(9);
  out << "ok";
  size_t i = 0;
  for (const auto& one : signature.outputs) {
    Tensor result(results[i++], TF_DeleteTensor);
    out << " " << one.first;
    Write(out, result.get());
  }
  return out.str();
}

std::string OneLine(std::string text) {
  for (char& c : text)
    if (c == '\n') c = ' ';
  return text;
}

void Serve(int argc, char** argv) {
  Check(argc >= 2, "usage: run_saved_model DIRECTORY [--no-xla] [LIBRARY ...]");
  for (int i = 2; i < argc; ++i) {
    if (std::string(argv[i]) == "--no-xla") {
      tensorflow::DisableXlaCompilation();
      continue;
    }
    Status status;
    TF_LoadLibrary(argv[i], status.get());
    status.Check();
  }
  Status status;
  TF_Graph* graph = TF_NewGraph();
  TF_SessionOptions* options = TF_NewSessionOptions();
  TF_Buffer* meta_graph = TF_NewBuffer();
  const char* tags[] = {"serve"};
  TF_Session* session = TF_LoadSessionFromSavedModel(options, nullptr, argv[1], tags, 1, graph,
                                                     meta_graph, status.get());
  status.Check();
  const auto signatures =
      Signatures(Bytes(static_cast<const char*>(meta_graph->data), meta_graph->length));
  std::cout << "loaded by TensorFlow " << TF_Version() << std::endl;
  std::string line;
  while (std::getline(std::cin, line)) {
    try {
      std::cout << Answer(graph, session, signatures, line) << std::endl;
    } catch (const std::exception& error) {
      std::cout << "error " << OneLine(error.what()) << std::endl;
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    Serve(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "error " << OneLine(error.what()) << std::endl;
    return 1;
  }
  return 0;
}
