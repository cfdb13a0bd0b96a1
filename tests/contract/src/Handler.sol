// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IChannelEscrow} from "microwallet/escrow/contract/IChannelEscrow.sol";
import {Fixture} from "./Fixture.sol";
import {ITestUSDC, NoReturnToken} from "./Tokens.sol";

/// @notice Does random things to the escrow, good and bad, and checks after each that no channel went back.
contract Handler is Fixture {
    uint256 public constant FUNDS = 1 << 100;
    uint256 private constant MOST_CHANNELS = 16;

    address[3] public tokens;
    uint256[2] private _payerKeys = [PAYER_KEY, uint256(keccak256("second payer"))];
    uint256[2] private _payeeKeys = [PAYEE_KEY, uint256(keccak256("second payee"))];

    IChannelEscrow.ChannelDescriptor[] private _channels;
    mapping(bytes32 channelId => IChannelEscrow.ChannelState) private _last;
    mapping(address token => uint256) public donated;
    uint256 public played;
    uint256 public succeeded;
    uint256 private _now = START;
    uint256 private _nonces;

    constructor() {
        setUp();
        tokens = [NATIVE, address(usdc), address(new NoReturnToken())];
        for (uint256 i = 0; i < 2; ++i) {
            address account = vm.addr(_payerKeys[i]);
            vm.deal(account, FUNDS);
            if (account != payer) _fund(address(usdc), account);
            _fund(tokens[2], account);
        }
    }

    modifier observed() {
        ++played;
        vm.warp(_now);
        _;
        for (uint256 i = 0; i < _channels.length; ++i) {
            _observe(_id(_channels[i]));
        }
    }

    function open(uint256 from, uint256 to, uint256 token, uint128 deposit, bool huge) external observed {
        if (_channels.length == MOST_CHANNELS) return;
        IChannelEscrow.ChannelDescriptor memory channel = _channel(tokens[token % 3]);
        channel.payer = vm.addr(_payerKeys[from % 2]);
        channel.payee = vm.addr(_payeeKeys[to % 2]);
        deposit = huge ? deposit : deposit % 1_000_000;
        if (_attempt(channel.payer, channel.token == NATIVE ? deposit : 0, _openData(channel, deposit))) {
            _channels.push(channel);
        }
    }

    function openAgain(uint256 index, uint128 deposit) external observed {
        if (_channels.length == 0) return;
        IChannelEscrow.ChannelDescriptor memory channel = _channels[index % _channels.length];
        uint256 value = channel.token == NATIVE ? deposit % 1_000_000 : 0;
        bool success = _attempt(channel.payer, value, _openData(channel, deposit % 1_000_000));
        vm.assertEq(success, false, "opened twice");
    }

    function topUp(uint256 index, uint128 amount, uint256 who) external observed {
        if (_channels.length == 0) return;
        IChannelEscrow.ChannelDescriptor memory channel = _channels[index % _channels.length];
        amount = amount % 1_000_000;
        address caller = _anyone(channel, who);
        uint256 value = channel.token == NATIVE ? amount : 0;
        if (caller.balance < value) return;
        bool success = _attempt(caller, value, abi.encodeCall(IChannelEscrow.topUp, (channel, amount)));
        if (success) vm.assertEq(caller, channel.payer, "topped up by");
    }

    function capture(uint256 index, uint128 above, uint128 voucher, uint256 who, uint256 kind) external observed {
        if (_channels.length == 0) return;
        IChannelEscrow.ChannelDescriptor memory channel = _channels[index % _channels.length];
        IChannelEscrow.Capture memory item = _anyCapture(channel, above, voucher, kind);
        address caller = _anyone(channel, who);
        bytes memory data = kind % 2 == 0
            ? abi.encodeCall(
                IChannelEscrow.settle, (channel, item.cumulativeAmount, item.captureAmount, item.signature)
            )
            : abi.encodeCall(IChannelEscrow.close, (channel, item.cumulativeAmount, item.captureAmount, item.signature));
        bool success = _attempt(caller, 0, data);
        if (success) vm.assertEq(caller, channel.payee, "captured by");
    }

    function captureAuthorized(uint256 index, uint128 above, uint128 voucher, uint256 kind) external observed {
        if (_channels.length == 0) return;
        IChannelEscrow.ChannelDescriptor memory channel = _channels[index % _channels.length];
        IChannelEscrow.Capture memory item = _anyCapture(channel, above, voucher, kind);
        _attempt(stranger, 0, _authorizedData(item, ++_nonces, kind % 2 == 1));
    }

    function captureBatch(uint256 first, uint256 size, uint128 above, uint256 who, bool closing) external observed {
        if (_channels.length == 0) return;
        size = size % 4;
        IChannelEscrow.Capture[] memory items = new IChannelEscrow.Capture[](size);
        for (uint256 i = 0; i < size; ++i) {
            IChannelEscrow.ChannelDescriptor memory channel =
                _channels[(first % _channels.length + i) % _channels.length];
            items[i] = _anyCapture(channel, above, 0, 8);
        }
        address caller = vm.addr(_payeeKeys[who % 2]);
        if (closing) _attempt(caller, 0, abi.encodeCall(IChannelEscrow.closeBatch, (items)));
        else _attempt(caller, 0, abi.encodeCall(IChannelEscrow.settleBatch, (items)));
    }

    function requestClose(uint256 index, uint256 who) external observed {
        if (_channels.length == 0) return;
        IChannelEscrow.ChannelDescriptor memory channel = _channels[index % _channels.length];
        address caller = _anyone(channel, who);
        bool success = _attempt(caller, 0, abi.encodeCall(IChannelEscrow.requestClose, (channel)));
        if (success) vm.assertEq(caller, channel.payer, "requested by");
    }

    function withdraw(uint256 index, uint256 who) external observed {
        if (_channels.length == 0) return;
        IChannelEscrow.ChannelDescriptor memory channel = _channels[index % _channels.length];
        address caller = _anyone(channel, who);
        IChannelEscrow.ChannelState memory state = _state(channel);
        bool ready = !state.finalized && state.closeRequestedAt != 0 && _now >= state.closeRequestedAt + 900;
        bool success = _attempt(caller, 0, abi.encodeCall(IChannelEscrow.withdraw, (channel)));
        vm.assertEq(success, ready && caller == channel.payer, "withdrawn");
    }

    function wait(uint256 time) external observed {
        _now += time % 1_200;
    }

    function donate(uint256 token, uint96 amount) external observed {
        address given = tokens[1 + token % 2];
        ITestUSDC(given).mint(address(escrow), amount % 1_000);
        donated[given] += amount % 1_000;
    }

    /// @notice The escrow holds what its open channels are owed, to the last unit, and what was given to it besides.
    function checkBalanceCoversLiabilities() external view {
        for (uint256 t = 0; t < 3; ++t) {
            uint256 owed = donated[tokens[t]];
            for (uint256 i = 0; i < _channels.length; ++i) {
                if (_channels[i].token != tokens[t]) continue;
                IChannelEscrow.ChannelState memory state = _state(_channels[i]);
                if (!state.finalized) owed += state.deposit - state.settled;
            }
            vm.assertEq(_tokenBalance(tokens[t], address(escrow)), owed, "the escrow holds what it owes");
        }
    }

    /// @notice Each payee has what its channels settled, each payer what it did not deposit and what came back, and
    /// nobody else has anything.
    function checkOnlyPayeeAndPayerArePaid() external view {
        for (uint256 t = 0; t < 3; ++t) {
            uint256[2] memory payers = [FUNDS, FUNDS];
            uint256[2] memory payees;
            for (uint256 i = 0; i < _channels.length; ++i) {
                if (_channels[i].token != tokens[t]) continue;
                IChannelEscrow.ChannelState memory state = _state(_channels[i]);
                payees[_channels[i].payee == payee ? 0 : 1] += state.settled;
                payers[_channels[i].payer == payer ? 0 : 1] -= state.finalized ? state.settled : state.deposit;
            }
            for (uint256 i = 0; i < 2; ++i) {
                vm.assertEq(_tokenBalance(tokens[t], vm.addr(_payeeKeys[i])), payees[i], "payee's balance");
                vm.assertEq(_tokenBalance(tokens[t], vm.addr(_payerKeys[i])), payers[i], "payer's balance");
            }
            vm.assertEq(_tokenBalance(tokens[t], stranger), 0, "stranger's balance");
            vm.assertEq(_tokenBalance(tokens[t], signer), 0, "signer's balance");
        }
    }

    function _attempt(address caller, uint256 value, bytes memory data) private returns (bool success) {
        if (caller.balance < value) return false;
        vm.prank(caller);
        (success,) = address(escrow).call{value: value}(data);
        if (success) ++succeeded;
    }

    function _authorizedData(IChannelEscrow.Capture memory item, uint256 nonce, bool closing)
        private
        view
        returns (bytes memory)
    {
        string memory typeName = closing ? "CloseAuthorization" : "SettleAuthorization";
        bytes4 selector =
            closing ? IChannelEscrow.closeWithAuthorization.selector : IChannelEscrow.settleWithAuthorization.selector;
        bytes memory content = abi.encode(
            keccak256(
                abi.encodePacked(
                    typeName,
                    "(bytes32 channelId,uint128 cumulativeAmount,uint128 captureAmount,uint256 nonce,uint256 deadline)"
                )
            ),
            _id(item.channel),
            item.cumulativeAmount,
            item.captureAmount,
            nonce,
            _now
        );
        return abi.encodeWithSelector(
            selector,
            item.channel,
            item.cumulativeAmount,
            item.captureAmount,
            nonce,
            _now,
            _sign(_keyOf(item.channel.payee), _digest(_escrowDomain(), content)),
            item.signature
        );
    }

    /// @dev Mostly the party that may, sometimes another.
    function _anyone(IChannelEscrow.ChannelDescriptor memory channel, uint256 who) private view returns (address) {
        who = who % 6;
        if (who == 0) return stranger;
        return who % 2 == 0 ? channel.payer : channel.payee;
    }

    /// @dev Mostly within the bounds, sometimes beyond; mostly signed, sometimes by the wrong key.
    function _anyCapture(IChannelEscrow.ChannelDescriptor memory channel, uint128 above, uint128 voucher, uint256 kind)
        private
        view
        returns (IChannelEscrow.Capture memory)
    {
        IChannelEscrow.ChannelState memory state = _state(channel);
        uint128 captureAmount = state.settled + above % (state.deposit - state.settled + 2);
        uint128 cumulative = captureAmount + voucher % 10;
        if (kind % 16 == 0 && cumulative != 0) cumulative -= 1;
        uint256 key = kind % 32 < 2 ? PAYEE_KEY : SIGNER_KEY;
        return IChannelEscrow.Capture(channel, cumulative, captureAmount, _voucher(channel, cumulative, key));
    }

    function _keyOf(address account) private view returns (uint256) {
        return account == vm.addr(_payeeKeys[0]) ? _payeeKeys[0] : _payeeKeys[1];
    }

    function _observe(bytes32 channelId) private {
        IChannelEscrow.ChannelState memory last = _last[channelId];
        IChannelEscrow.ChannelState memory state = escrow.getChannel(channelId);
        vm.assertTrue(state.deposit >= last.deposit, "the deposit never falls");
        vm.assertTrue(state.settled >= last.settled, "settled never falls");
        vm.assertTrue(state.settled <= state.deposit, "settled never passes the deposit");
        if (last.finalized) {
            vm.assertEq(keccak256(abi.encode(state)), keccak256(abi.encode(last)), "a finalized channel never changes");
        }
        _last[channelId] = state;
    }
}
