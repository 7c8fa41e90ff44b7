-- What Envoy's settings cannot say: requests that are refused by their head alone, and which model a gRPC call names.
--
-- KServe's protocol has the name in the message: field 1 of every request that has one, which libraries write first. After
-- the frame's head (5 bytes) come the tag 0x0a, the length as a varint, the name. It becomes a header to route by.
local MODEL = "x-millrace-model"
local HOPELESS_BYTES = 67108864  -- below it the body is read to the limit, so that a client that is sending hears the refusal

local function refused(headers)
  local method, length = headers:get(":method"), tonumber(headers:get("content-length") or "0")
  if method == "CONNECT" or method == "TRACE" then return "405", method .. " is not answered here" end
  if (headers:get(":authority") or ""):find(",", 1, true) then return "400", "the request has two hosts" end
  if length ~= nil and length > HOPELESS_BYTES then return "413", "" end
end

local function model_name(body)
  local length, factor = 0, 1
  for place = 6, math.min(9, body:length() - 1) do
    local byte = body:getBytes(place, 1):byte()
    length = length + byte % 128 * factor
    factor = factor * 128
    if byte < 128 then
      local whole = length > 0 and place + 1 + length <= body:length()
      return whole and body:getBytes(place + 1, length) or nil
    end
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local status, text = refused(headers)
  if status ~= nil then
    handle:respond({[":status"] = status}, text)
    return
  end

  headers:remove(MODEL)
  if (headers:get("content-type") or ""):sub(1, 16) ~= "application/grpc" then return end
  local body = handle:body()
  if body == nil or body:length() < 8 then return end

  local head = body:getBytes(0, 6)
  local plain, names_a_model = head:byte(1) == 0, head:byte(6) == 10
  local name = plain and names_a_model and model_name(body) or nil
  if name ~= nil and name:match("^[%w_.-]+$") then
    handle:headers():add(MODEL, name)  -- what was taken before the body is gone
    handle:clearRouteCache()
  end
end
